"""The kinds of values that settings take. No message shows a value."""

from typing import Annotated
from urllib.parse import SplitResult, urlsplit

from pydantic import AfterValidator, Field, SecretStr

from settings.rules import split_list
from signatures import is_signing_secret


def _parts(value: str) -> SplitResult | None:
    try:
        parts = urlsplit(value)
        _ = parts.port  # it is only looked at when it is asked for
    except ValueError:  # whose text quotes the URL
        return None
    return parts


def _http_url(value: str) -> str:
    _orchestrator_url(value)
    return value.rstrip("/")


def _orchestrator_url(value: str) -> str:
    parts = _parts(value)
    if value and (parts is None or parts.scheme not in ("http", "https") or not parts.hostname):
        raise ValueError("must be an absolute http or https URL")
    return value


def _redis_url(value: str) -> str:
    if not value.startswith(("redis://", "rediss://", "sentinel://")):
        raise ValueError("must be a redis://, rediss:// or sentinel:// URL")
    return value


def _broker_url(value: str) -> str:
    if value and "://" not in value:
        raise ValueError("must be a URL, such as amqps://user:password@host:5671//")
    return value


def _origins(value: str) -> str:
    for each in split_list(value):
        parts = _parts(each)
        whole = parts is not None and f"{parts.scheme}://{parts.netloc}" == each
        if parts is None or not whole or parts.scheme not in ("http", "https") or "@" in each:
            raise ValueError("must be origins, such as https://editor.example, without a path")
    return value


def _signing_secrets(value: SecretStr) -> SecretStr:
    if not all(map(is_signing_secret, split_list(value))):
        raise ValueError("must be whsec_ and 24 to 64 bytes in base64, comma-separated")
    return value


def _rate_limit(value: str) -> str:
    if value:
        from limits import parse

        try:
            parse(value)
        except ValueError:
            raise ValueError("must be a rate such as 30/minute") from None
    return value


RunLimit = Annotated[str, AfterValidator(_rate_limit)]
HttpUrl = Annotated[str, AfterValidator(_http_url)]
OrchestratorUrl = Annotated[str, AfterValidator(_orchestrator_url)]
RedisUrl = Annotated[str, AfterValidator(_redis_url)]
BrokerUrl = Annotated[str, AfterValidator(_broker_url)]
Origins = Annotated[str, AfterValidator(_origins)]
SigningSecrets = Annotated[SecretStr, AfterValidator(_signing_secrets)]
Seconds = Annotated[float, Field(gt=0, le=86_400)]
