"""All settings, read from the environment with the prefix TAKEONE_. docs/configuration.md describes them."""

from settings.model import FlowerSettings as FlowerSettings
from settings.model import Settings as Settings
from settings.model import SettingsError as SettingsError
from settings.model import StoreSettings as StoreSettings
from settings.model import WorkerSettings as WorkerSettings
from settings.model import load_flower_settings as load_flower_settings
from settings.model import load_settings as load_settings
from settings.model import load_store_settings as load_store_settings
from settings.model import load_worker_settings as load_worker_settings
from settings.model import or_exit as or_exit
