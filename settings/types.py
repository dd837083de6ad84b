"""The types of the settings' values. No message about a refused value quotes it."""

import re
from base64 import b64decode
from ipaddress import ip_address
from typing import Annotated, Any, Literal
from urllib.parse import SplitResult, urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr
from pydantic_settings import NoDecode

# How Standard Webhooks writes a secret, and how long it may be.
_SECRET_PREFIX = "whsec_"  # noqa: S105
_SECRET_BYTES = range(24, 65)


def split_list(value: str | SecretStr | tuple[str, ...]) -> tuple[str, ...]:
    """The items of a comma-separated setting, without blanks; a tuple, as of a default, has them."""
    if isinstance(value, tuple):
        return value
    text = value.get_secret_value() if isinstance(value, SecretStr) else value
    return tuple(item.strip() for item in text.split(",") if item.strip())


def sentinel_parts(url: str) -> tuple[str, list[str], str]:
    """The credentials, hosts and database of `sentinel://user:password@host:port,[::1]:port/0`.

    Recent Pythons' `urlsplit` raises for several hosts of which one is an IPv6 address.
    """
    credentials, _, location = url.removeprefix("sentinel://").rpartition("@")
    hosts, _, database = location.partition("/")
    return credentials, hosts.split(","), database


def sentinel_node(host: str) -> tuple[str, int]:
    """The address and port of one sentinel."""
    parts = urlsplit(f"sentinel://{host}")
    return parts.hostname or "", parts.port or 26379


def can_verify(key: Any, algorithm_name: str) -> bool:
    """Whether the algorithm can verify signatures with `key`: PEM, a shared key or a key object."""
    import jwt

    try:
        algorithm = jwt.get_algorithm_by_name(algorithm_name)
        algorithm.verify(b"", algorithm.prepare_key(key), b"")
    except Exception:  # each kind of key fails in its own way, and some messages quote the key
        return False
    return True


def is_loopback(host: str) -> bool:
    """Whether `host` is an address of this machine that no other machine can reach."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def is_signing_secret(secret: str) -> bool:
    """Whether `secret` is `whsec_` and 24 to 64 bytes in base64 (Standard Webhooks)."""
    encoded = secret.removeprefix(_SECRET_PREFIX)
    try:
        return encoded != secret and len(b64decode(encoded, validate=True)) in _SECRET_BYTES
    except ValueError:
        return False


def _url_parts(value: str) -> SplitResult | None:
    if " " in value or not value.isprintable():
        return None  # urlsplit drops some of these and keeps others
    try:
        parts = urlsplit(value)
        _ = parts.port  # only checked when it is read
    except ValueError:
        return None
    return parts


def _orchestrator_url(value: str) -> str:
    parts = _url_parts(value)
    if value and (parts is None or parts.scheme not in ("http", "https") or not parts.hostname):
        raise ValueError("must be an absolute http or https URL")
    return value


def _public_url(value: str) -> str:
    if "?" in value or "#" in value:
        raise ValueError("must be an absolute http or https URL without a query: paths are added")
    return _orchestrator_url(value).rstrip("/")


def _redis_url(value: str) -> str:
    is_valid = _is_sentinel_url if value.startswith("sentinel://") else _is_redis_url
    if not is_valid(value):
        raise ValueError(
            "must be a redis:// or rediss:// URL, or sentinel://host:port,host:port/0, with a number for "
            "the database; write / ? # @ and : in a password as %2F %3F %23 %40 and %3A"
        )
    return value


def _is_redis_url(value: str) -> bool:
    from redis import ConnectionPool

    parts = _url_parts(value)
    if parts is None or parts.scheme not in ("redis", "rediss") or not parts.hostname:
        return False
    try:
        ConnectionPool.from_url(value).make_connection()  # does not connect yet
    except (TypeError, ValueError):  # an unknown option in the query
        return False
    return bool(re.fullmatch("/?[0-9]*", parts.path)) and not parts.fragment


def _is_sentinel_url(value: str) -> bool:
    credentials, hosts, database = sentinel_parts(value)
    nodes = [_url_parts(f"sentinel://{host}") for host in hosts]
    return (
        all(node is not None and node.hostname and not node.query for node in nodes)
        and bool(re.fullmatch("[0-9]*", database))
        and not set("/?#").intersection(credentials)
    )


def _broker_url(value: str) -> str:
    is_one_sentinel_url = value.startswith("sentinel://") and ";" not in value
    if is_one_sentinel_url or value.startswith(("redis://", "rediss://")):
        return _redis_url(value)
    if value and not all(map(_is_transport, value.split(";"))):
        raise ValueError("must be a URL, such as amqps://user:password@host:5671//")
    return value


def _is_transport(value: str) -> bool:
    from kombu import Connection

    if _url_parts(value) is None or "://" not in value:
        return False
    try:
        return bool(Connection(value).get_transport_cls())
    except Exception:  # kombu has no such transport, or cannot read the URL
        return False


def _host(value: str) -> str:
    value = value.removeprefix("[").removesuffix("]")
    try:
        return value and str(ip_address("127.0.0.1" if value == "localhost" else value))
    except ValueError:
        raise ValueError("must be an IP address, such as 127.0.0.1, 0.0.0.0 or ::") from None


def _origins(value: tuple[str, ...]) -> tuple[str, ...]:
    for origin in value:
        parts = _url_parts(origin)
        is_whole = parts is not None and f"{parts.scheme}://{parts.netloc}" == origin
        if not is_whole or not origin.startswith(("http://", "https://")) or "@" in origin:
            raise ValueError("must be origins, such as https://editor.example, without a path")
    return value


def _jwt_key(value: SecretStr) -> SecretStr:
    """A PEM key that a .env file holds on one line has its line feeds written as \\n."""
    text = value.get_secret_value()
    return SecretStr(text.replace("\\n", "\n").strip()) if text.startswith("-----BEGIN") else value


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


RateLimit = Annotated[str, AfterValidator(_rate_limit)]
Host = Annotated[str, AfterValidator(_host)]
PublicUrl = Annotated[str, AfterValidator(_public_url)]
OrchestratorUrl = Annotated[str, AfterValidator(_orchestrator_url)]
HttpUrl = Annotated[OrchestratorUrl, AfterValidator(lambda value: value.rstrip("/"))]
RedisUrl = Annotated[str, AfterValidator(_redis_url)]
BrokerUrl = Annotated[str, AfterValidator(_broker_url)]
# Comma-separated in the environment.
Items = Annotated[tuple[str, ...], NoDecode, BeforeValidator(split_list)]
Origins = Annotated[Items, AfterValidator(_origins)]
JwtKey = Annotated[SecretStr, AfterValidator(_jwt_key)]
SigningSecrets = Annotated[SecretStr, AfterValidator(_signing_secrets)]
AtMostAYear = Annotated[float, Field(ge=0, le=31_536_000)]
Port = Annotated[int, Field(ge=0, le=65_535)]
Seconds = Annotated[float, Field(gt=0, le=86_400)]
OrchestratorKind = Literal["webhook", "airflow", "prefect", "temporal", "restate", "step_functions"]
