"""All settings, read from the environment with the prefix TAKEONE_.

`docs/configuration.md` is made from them: `python -m settings > docs/configuration.md`.
"""

from settings.model import (
    FlowerSettings,
    Settings,
    SettingsError,
    load_flower_settings,
    load_settings,
)
from settings.rules import split_list

__all__ = [
    "FlowerSettings",
    "Settings",
    "SettingsError",
    "load_flower_settings",
    "load_settings",
    "split_list",
]
