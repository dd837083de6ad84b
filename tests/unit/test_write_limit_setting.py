"""The limit of a user's changes as a setting."""

import pytest

from settings import Settings, SettingsError, load_settings


@pytest.mark.parametrize("value", ["30/minute", "5/2 seconds", "100 per hour", ""])
def test_a_rate_in_words_is_taken(value: str) -> None:
    assert Settings(env="development", write_limit=value).write_limit == value


@pytest.mark.parametrize("value", ["30", "many", "30/fortnight", "-1/minute"])
def test_what_is_no_rate_is_refused_at_start_up(
    value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TAKEONE_ENV", "development")
    monkeypatch.setenv("TAKEONE_WRITE_LIMIT", value)
    load_settings.cache_clear()
    with pytest.raises(SettingsError, match="TAKEONE_WRITE_LIMIT: must be a rate"):
        load_settings()


def test_the_old_name_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TAKEONE_ENV", "development")
    monkeypatch.setenv("TAKEONE_RUN_LIMIT", "30/minute")
    load_settings.cache_clear()
    with pytest.raises(SettingsError, match="TAKEONE_RUN_LIMIT is now called TAKEONE_WRITE_LIMIT"):
        load_settings()
