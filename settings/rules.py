"""What must hold between settings, and what production asks for beyond each setting's own bounds."""

import os
import re
from collections.abc import Callable, Iterable
from importlib.util import find_spec
from typing import TYPE_CHECKING, NamedTuple

from pydantic import SecretStr

if TYPE_CHECKING:
    from settings import Settings

DEV_CALLBACK_SECRET = "dev-callback-secret"  # noqa: S105 - refused in production
LEAST_SECRET_CHARACTERS = 16
# What RFC 7518 (3.2) asks of a key for HS256.
LEAST_SHARED_KEY_BYTES = 32


class Rule(NamedTuple):
    """The settings that it reads, whether they break it, and what to say then."""

    reads: str
    broken: Callable[["Settings"], bool]
    problem: str


def problems(settings: "Settings", rules: Iterable[Rule], faulty: Iterable[str] = ()) -> list[str]:
    """What is missing or unsafe.

    Rules that read a `faulty` setting, whose value is not known, are passed over.
    """
    passed_over = set(faulty)
    return [
        rule.problem
        for rule in rules
        if passed_over.isdisjoint(rule.reads.split()) and rule.broken(settings)
    ]


def _uses_jwt(settings: "Settings") -> bool:
    return settings.auth_mode == "jwt"


def _algorithms(settings: "Settings") -> tuple[str, ...]:
    return split_list(settings.jwt_algorithms)


def _shared_key_algorithms(settings: "Settings") -> bool:
    return any(each.startswith("HS") for each in _algorithms(settings))


def _weak_shared_key(settings: "Settings") -> bool:
    key = settings.jwt_key.get_secret_value().encode()
    shared = _uses_jwt(settings) and _shared_key_algorithms(settings)
    return settings.production and shared and 0 < len(key) < LEAST_SHARED_KEY_BYTES


def _weak_callback_secret(settings: "Settings") -> bool:
    return settings.production and any(
        len(each) < LEAST_SECRET_CHARACTERS or each == DEV_CALLBACK_SECRET
        for each in settings.callback_secrets
    )


def _two_or_no_keys(settings: "Settings") -> bool:
    return _uses_jwt(settings) and bool(_text(settings.jwt_key)) == bool(settings.jwt_jwks_url)


def _tracing_without_packages(settings: "Settings") -> bool:
    return settings.otel and (
        find_spec("opentelemetry") is None or find_spec("opentelemetry.sdk") is None
    )


def _ignores_certificates(settings: "Settings") -> bool:
    urls = f"{_text(settings.redis_url)} {_text(settings.broker_url)}"
    return settings.production and bool(
        re.search("ssl_cert_reqs=(cert_)?(none|optional)", urls, re.I)
    )


# What holds for every process that connects to Redis or to the broker.
CONNECTION_RULES = (
    Rule("env redis_url broker_url", _ignores_certificates,
         "TAKEONE_REDIS_URL and TAKEONE_BROKER_URL must not turn off the check of certificates"),
    Rule("ca_file", lambda it: bool(it.ca_file) and not os.access(it.ca_file, os.R_OK),
         "TAKEONE_CA_FILE cannot be read"),
)  # fmt: skip

RULES = (
    *CONNECTION_RULES,
    Rule("env orchestrator_url", lambda it: not _text(it.orchestrator_url),
         "TAKEONE_ORCHESTRATOR_URL is not set"),
    Rule("env public_url", lambda it: not it.public_url,
         "TAKEONE_PUBLIC_URL is not set"),
    Rule("env callback_secret signing_secret",
         lambda it: not it.callback_secrets and not it.signing_secrets,
         "TAKEONE_CALLBACK_SECRET is not set"),
    Rule("env redis_url", lambda it: it.production and "redis_url" not in it.model_fields_set,
         "TAKEONE_REDIS_URL is not set"),
    Rule("env auth_mode jwt_key jwt_jwks_url", _two_or_no_keys,
         "one of TAKEONE_JWT_KEY and TAKEONE_JWT_JWKS_URL must be set"),
    Rule("env auth_mode jwt_issuer", lambda it: _uses_jwt(it) and not it.jwt_issuer,
         "TAKEONE_JWT_ISSUER is not set"),
    Rule("env auth_mode jwt_audience", lambda it: _uses_jwt(it) and not it.jwt_audience,
         "TAKEONE_JWT_AUDIENCE is not set"),
    Rule("jwt_algorithms",
         lambda it: not _algorithms(it) or any(re.fullmatch("none", a, re.I) for a in _algorithms(it)),
         "TAKEONE_JWT_ALGORITHMS must name signature algorithms"),
    Rule("jwt_algorithms jwt_jwks_url",
         lambda it: bool(it.jwt_jwks_url) and _shared_key_algorithms(it),
         "TAKEONE_JWT_ALGORITHMS: shared-key algorithms cannot come from a JWKS URL"),
    Rule("env auth_mode jwt_algorithms jwt_key", _weak_shared_key,
         f"TAKEONE_JWT_KEY: a shared key has at least {LEAST_SHARED_KEY_BYTES} bytes"),
    Rule("env auth_mode", lambda it: it.production and it.auth_mode == "dev",
         "TAKEONE_AUTH_MODE=dev is not allowed in production"),
    Rule("env callback_secret", _weak_callback_secret,
         "TAKEONE_CALLBACK_SECRET is too short or a known default"),
    Rule("web_threads web_waiters", lambda it: it.web_waiters >= it.web_threads,
         "TAKEONE_WEB_WAITERS must be below TAKEONE_WEB_THREADS: else those who wait shut out the rest"),
    Rule("otel", _tracing_without_packages,
         "TAKEONE_OTEL is set, but OpenTelemetry is not installed: pip install 'takeone[otel]'"),
)  # fmt: skip


def _flower_users(settings: "Settings") -> list[tuple[str, str]]:
    users = (each.partition(":") for each in split_list(settings.flower_basic_auth))
    return [(user, password) for user, _, password in users]


FLOWER_RULES = (
    *CONNECTION_RULES,
    Rule("env broker_url redis_url",
         lambda it: it.production and not it.model_fields_set & {"broker_url", "redis_url"},
         "TAKEONE_BROKER_URL (or TAKEONE_REDIS_URL) is not set"),
    Rule("flower_basic_auth",
         lambda it: not all(user and password and password.isascii()
                            for user, password in _flower_users(it)),
         "TAKEONE_FLOWER_BASIC_AUTH must be user:password, comma-separated, in ASCII"),
    Rule("env flower_basic_auth",
         lambda it: it.production and any(len(password) < LEAST_SECRET_CHARACTERS
                                          for _, password in _flower_users(it)),
         "TAKEONE_FLOWER_BASIC_AUTH has a password that is too short"),
    Rule("flower_url_prefix",
         lambda it: not re.fullmatch(r"[\w.~/-]*", it.flower_url_prefix, re.ASCII),
         "TAKEONE_FLOWER_URL_PREFIX must be a plain path, such as flower"),
)  # fmt: skip


def split_list(value: str | SecretStr) -> tuple[str, ...]:
    """The parts of a comma-separated setting, without blanks."""
    return tuple(part.strip() for part in _text(value).split(",") if part.strip())


def _text(value: str | SecretStr) -> str:
    return value.get_secret_value() if isinstance(value, SecretStr) else value
