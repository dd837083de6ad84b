"""The limit of run calls as a setting."""

import pytest

from settings import Settings, SettingsError, load_settings


@pytest.mark.parametrize("value", ["30/minute", "5/2 seconds", "100 per hour", ""])
def test_a_rate_in_words_is_taken(value: str) -> None:
    assert Settings(env="development", run_limit=value).run_limit == value


@pytest.mark.parametrize("value", ["30", "many", "30/fortnight", "-1/minute"])
def test_what_is_no_rate_is_refused_at_start_up(
    value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TAKEONE_ENV", "development")
    monkeypatch.setenv("TAKEONE_RUN_LIMIT", value)
    load_settings.cache_clear()
    with pytest.raises(SettingsError, match="TAKEONE_RUN_LIMIT: must be a rate"):
        load_settings()
