"""All settings, read from the environment with the prefix TAKEONE_. docs/configuration.md describes them."""

from settings.model import (
    FlowerSettings,
    Settings,
    SettingsError,
    StoreSettings,
    load_flower_settings,
    load_settings,
    load_store_settings,
    load_worker_settings,
    or_exit,
)
from settings.values import split_list

__all__ = [
    "FlowerSettings",
    "Settings",
    "SettingsError",
    "StoreSettings",
    "load_flower_settings",
    "load_settings",
    "load_store_settings",
    "load_worker_settings",
    "or_exit",
    "split_list",
]
