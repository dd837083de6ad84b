"""How values of settings are taken apart."""

from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from pydantic import SecretStr


def split_list(value: str | SecretStr) -> tuple[str, ...]:
    """The parts of a comma-separated setting, without blanks."""
    text = value.get_secret_value() if isinstance(value, SecretStr) else value
    return tuple(part.strip() for part in text.split(",") if part.strip())


def sentinel_nodes(hosts: str) -> list[tuple[str, int]]:
    """The sentinels of `host:port,[::1]:port`, as (host, port)."""
    nodes = [urlsplit(f"sentinel://{each}") for each in hosts.split(",")]
    return [(node.hostname or "", node.port or 26379) for node in nodes]


def can_verify(key: Any, algorithm_name: str) -> bool:
    """Whether the algorithm can check a signature by the key, which is PEM, a shared key or a key object."""
    import jwt

    try:
        algorithm = jwt.get_algorithm_by_name(algorithm_name)
        algorithm.verify(b"", algorithm.prepare_key(key), b"")
    except Exception:  # each kind of key has its own ways to fail, and some texts quote the key
        return False
    return True


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches what listens on, or lives at, `host`."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"
