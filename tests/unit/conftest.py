"""The environment of a production process, which tests of settings change."""

import pytest

import settings
from settings import Settings, SettingsError

PRODUCTION_SETTINGS = {
    "TAKEONE_REDIS_URL": "redis://:pass-of-redis@127.0.0.1:6379/0",
    "TAKEONE_ORCHESTRATOR_URL": "https://caller:pass-of-orchestrator@flows.example/hook",
    "TAKEONE_PUBLIC_URL": "https://takeone.example",
    "TAKEONE_CALLBACK_SECRET": "a-callback-secret-of-the-tests",
    "TAKEONE_JWT_KEY": "a-shared-key-that-is-long-enough-for-hs256",
    "TAKEONE_JWT_ISSUER": "https://login.example",
    "TAKEONE_JWT_AUDIENCE": "takeone",
    "TAKEONE_JWT_ALGORITHMS": "HS256",
}


class Environment:
    """The environment's variables, and the settings that are loaded from them without a cache."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch = monkeypatch

    def set(self, **changes: str | None) -> None:
        """Change variables; None removes one."""
        for name, value in changes.items():
            if value is None:
                self._monkeypatch.delenv(name, raising=False)
            else:
                self._monkeypatch.setenv(name, value)

    def load(self, **changes: str | None) -> Settings:
        """The settings of a web process, after these changes."""
        self.set(**changes)
        return settings.load_settings.__wrapped__()

    def refusal(self, load: str = "load_settings", **changes: str | None) -> list[str]:
        """The problems that `settings.<load>` reports after these changes, one per line."""
        self.set(**changes)
        with pytest.raises(SettingsError) as error:
            getattr(settings, load).__wrapped__()
        return str(error.value).splitlines()


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Environment:
    """An environment with everything that production requires."""
    environment = Environment(monkeypatch)
    environment.set(HOST=None, **PRODUCTION_SETTINGS)
    return environment
