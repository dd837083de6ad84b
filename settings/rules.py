"""What must hold between settings, and what production asks for beyond each setting's own bounds."""

import re
from collections.abc import Callable
from importlib.util import find_spec
from ssl import create_default_context
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

from settings.types import can_verify, is_loopback, split_list

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


def _algorithms(settings: "Settings") -> tuple[str, ...]:
    return split_list(settings.jwt_algorithms)


def _shared_key_algorithms(settings: "Settings") -> bool:
    return any(each.startswith("HS") for each in _algorithms(settings))


def _weak_shared_key(settings: "Settings") -> bool:
    key = settings.jwt_key.get_secret_value().encode()
    shared = settings.auth_mode == "jwt" and _shared_key_algorithms(settings)
    return settings.production and shared and 0 < len(key) < LEAST_SHARED_KEY_BYTES


def _unknown_algorithm(settings: "Settings") -> bool:
    import jwt

    known = set(jwt.PyJWS().get_algorithms()) - {"none"}
    return not _algorithms(settings) or not known.issuperset(_algorithms(settings))


def _key_cannot_verify(settings: "Settings") -> bool:
    """Whether one of the algorithms cannot check a signature by the key: then each of its tokens would be
    refused, or worse."""
    key = settings.jwt_key.get_secret_value()
    if settings.auth_mode != "jwt" or not key or _unknown_algorithm(settings):
        return False
    unfit = not all(can_verify(key, each) for each in _algorithms(settings))
    return unfit or "PRIVATE KEY-----" in key


def _keys_over_http(settings: "Settings") -> bool:
    parts = urlsplit(settings.jwt_jwks_url)
    return settings.production and parts.scheme == "http" and not is_loopback(parts.hostname or "")


def _unusable_ca_file(settings: "Settings") -> bool:
    try:
        return bool(settings.ca_file) and not create_default_context(cafile=settings.ca_file)
    except OSError:  # SSLError is one
        return True


def _weak_callback_secret(settings: "Settings") -> bool:
    return settings.production and any(
        len(each) < LEAST_SECRET_CHARACTERS or each == DEV_CALLBACK_SECRET
        for each in settings.callback_secrets
    )


def _ignores_certificates(settings: "Settings") -> bool:
    urls = f"{settings.redis_url} {settings.broker_url}"
    return settings.production and bool(
        re.search("ssl_cert_reqs=(cert_)?(none|optional)", urls, re.I)
    )


# What a workflow's name looks like, for each kind of orchestrator that has one.
_WORKFLOWS = {
    "airflow": r"[\w.~:+-]+",
    "prefect": r"[^/\s][^/]*/[^/]*[^/\s]",
    "temporal": r"[^@\s]+@[^@\s]+",
    "restate": r"\w[\w.-]*/\w+",
    "step_functions": r"arn:[\w-]+:states:[\w-]+:\d{12}:stateMachine:[\w-]+",
}


def _malformed_headers(settings: "Settings") -> bool:
    fields = settings.orchestrator_header_fields
    sound = all(re.fullmatch(r"[!#$%&'*+.^`|~\w-]+", name, re.ASCII) for name in fields)
    return not sound or not all(
        value.isascii() and value.isprintable() for value in fields.values()
    )


# What holds for every process that connects to Redis or to the broker.
CONNECTION_RULES = (
    Rule("env redis_url broker_url", _ignores_certificates,
         "TAKEONE_REDIS_URL and TAKEONE_BROKER_URL must not turn off the check of certificates"),
    Rule("ca_file", _unusable_ca_file,
         "TAKEONE_CA_FILE cannot be read, or holds no certificate in PEM"),
)  # fmt: skip

_ORCHESTRATOR_RULES = (
    Rule("orchestrator_kind orchestrator_workflow",
         lambda it: not re.fullmatch(_WORKFLOWS.get(it.orchestrator_kind, ""), it.orchestrator_workflow),
         "TAKEONE_ORCHESTRATOR_WORKFLOW must name what TAKEONE_ORCHESTRATOR_KIND starts: an Airflow DAG, "
         "Prefect's flow/deployment, Temporal's Type@queue, Restate's Service/handler, the ARN of a state "
         "machine; nothing for a webhook"),
    Rule("orchestrator_kind",
         lambda it: it.orchestrator_kind == "step_functions" and not find_spec("botocore"),
         "TAKEONE_ORCHESTRATOR_KIND=step_functions needs botocore: pip install 'takeone[aws]'"),
    Rule("orchestrator_headers", _malformed_headers,
         "TAKEONE_ORCHESTRATOR_HEADERS must be headers such as `Authorization: Bearer …`, separated by `;`"),
    Rule("orchestrator_idempotency_seconds orchestrator_timeout_seconds orchestrator_kind",
         lambda it: 0 < it.orchestrator_idempotency_seconds <= it.resend_margin_seconds,
         "TAKEONE_ORCHESTRATOR_IDEMPOTENCY_SECONDS must be 0, or more than two exchanges may "
         "take (2.2 times TAKEONE_ORCHESTRATOR_TIMEOUT_SECONDS and 15 seconds), to be of any use"),
)  # fmt: skip

STORE_RULES = (
    *CONNECTION_RULES,
    *_ORCHESTRATOR_RULES,
    Rule("env redis_url", lambda it: it.production and "redis_url" not in it.model_fields_set,
         "TAKEONE_REDIS_URL is not set"),
    Rule("otel",
         lambda it: it.otel and not (find_spec("opentelemetry") and find_spec("opentelemetry.sdk")),
         "TAKEONE_OTEL is set, but OpenTelemetry is not installed: pip install 'takeone[otel]'"),
)  # fmt: skip

_PUBLIC_URL = Rule("env public_url", lambda it: not it.public_url, "TAKEONE_PUBLIC_URL is not set")

WORKER_RULES = (
    *STORE_RULES,
    _PUBLIC_URL,
    Rule("env orchestrator_url orchestrator_kind",
         lambda it: not it.orchestrator_url and it.orchestrator_kind != "step_functions",
         "TAKEONE_ORCHESTRATOR_URL is not set"),
)  # fmt: skip

RULES = (
    *STORE_RULES,
    _PUBLIC_URL,
    Rule("env callback_secret signing_secret",
         lambda it: not it.callback_secrets and not it.signing_secrets,
         "TAKEONE_CALLBACK_SECRET is not set"),
    Rule("callback_secret", lambda it: not all(re.fullmatch("[!-~]+", each) for each in it.callback_secrets),
         "TAKEONE_CALLBACK_SECRET must be printable ASCII without blanks: it travels in a header"),
    Rule("env auth_mode jwt_key jwt_jwks_url",
         lambda it: it.auth_mode == "jwt" and bool(it.jwt_key) == bool(it.jwt_jwks_url),
         "one of TAKEONE_JWT_KEY and TAKEONE_JWT_JWKS_URL must be set"),
    Rule("env auth_mode jwt_issuer", lambda it: it.auth_mode == "jwt" and not it.jwt_issuer,
         "TAKEONE_JWT_ISSUER is not set"),
    Rule("env auth_mode jwt_audience", lambda it: it.auth_mode == "jwt" and not it.jwt_audience,
         "TAKEONE_JWT_AUDIENCE is not set"),
    Rule("jwt_algorithms",
         _unknown_algorithm,
         "TAKEONE_JWT_ALGORITHMS must name signature algorithms"),
    Rule("jwt_algorithms jwt_jwks_url",
         lambda it: bool(it.jwt_jwks_url) and _shared_key_algorithms(it),
         "TAKEONE_JWT_ALGORITHMS: shared-key algorithms cannot come from a JWKS URL"),
    Rule("auth_mode jwt_algorithms jwt_key", _key_cannot_verify,
         "TAKEONE_JWT_KEY must be a public key in PEM (or a shared key for HS256) that every algorithm of "
         "TAKEONE_JWT_ALGORITHMS can verify with"),
    Rule("env jwt_jwks_url", _keys_over_http,
         "TAKEONE_JWT_JWKS_URL must be https"),
    Rule("model_profiles", lambda it: not split_list(it.model_profiles),
         "TAKEONE_MODEL_PROFILES names no profile"),
    Rule("env auth_mode jwt_algorithms jwt_key", _weak_shared_key,
         f"TAKEONE_JWT_KEY: a shared key has at least {LEAST_SHARED_KEY_BYTES} bytes"),
    Rule("env auth_mode", lambda it: it.production and it.auth_mode == "dev",
         "TAKEONE_AUTH_MODE=dev is not allowed in production"),
    Rule("env auth_mode host", lambda it: it.auth_mode == "dev" and not is_loopback(it.listen_address),
         "TAKEONE_AUTH_MODE=dev believes every caller: HOST must be a loopback address, such as 127.0.0.1"),
    Rule("env callback_secret", _weak_callback_secret,
         "TAKEONE_CALLBACK_SECRET is too short or a known default"),
    Rule("web_threads web_wait_slots", lambda it: it.web_wait_slots >= it.web_threads,
         "TAKEONE_WEB_WAIT_SLOTS must be below TAKEONE_WEB_THREADS: else those who wait shut out the rest"),
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
