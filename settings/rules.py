"""What a start refuses: settings that do not fit together, are missing, or are unsafe in production."""

import re
from collections.abc import Callable
from importlib.util import find_spec
from ssl import create_default_context
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from settings.types import can_verify, is_loopback, split_list

if TYPE_CHECKING:
    from settings import Settings

DEV_CALLBACK_SECRET = "dev-callback-secret"  # noqa: S105 - refused in production
LEAST_SECRET_CHARACTERS = 16
# RFC 7518, section 3.2, for HS256.
LEAST_SHARED_KEY_BYTES = 32

#: The message for each problem, and whether the settings have the problem.
Rules = dict[str, Callable[["Settings"], bool]]

_UNVERIFIED = "ssl_cert_reqs=(cert_)?(none|optional)"
_HEADER_NAME = r"[!#$%&'*+.^`|~\w-]+"
# What the name of a workflow looks like, for each kind of orchestrator that has one.
_WORKFLOWS = {
    "airflow": r"[\w.~:+-]+",
    "prefect": r"[^/\s][^/]*/[^/]*[^/\s]",
    "temporal": r"[^@\s]+@[^@\s]+",
    "restate": r"\w[\w.-]*/\w+",
    "step_functions": r"arn:[\w-]+:states:[\w-]+:\d{12}:stateMachine:[\w-]+",
}


def _has_unusable_ca_file(settings: "Settings") -> bool:
    try:
        if settings.ca_file:
            create_default_context(cafile=settings.ca_file)
    except OSError:  # also SSLError
        return True
    return False


def _has_shared_key_algorithm(settings: "Settings") -> bool:
    return any(name.startswith("HS") for name in settings.jwt_algorithms)


def _has_unknown_algorithm(settings: "Settings") -> bool:
    import jwt

    known = set(jwt.PyJWS().get_algorithms()) - {"none"}
    return not settings.jwt_algorithms or not known.issuperset(settings.jwt_algorithms)


def _has_unfit_key(settings: "Settings") -> bool:
    """Whether an algorithm cannot verify with the key: its tokens would be refused, or worse."""
    key = settings.jwt_key.get_secret_value()
    if settings.auth_mode != "jwt" or not key or _has_unknown_algorithm(settings):
        return False
    return "PRIVATE KEY-----" in key or not all(
        can_verify(key, name) for name in settings.jwt_algorithms
    )


def _flower_users(settings: "Settings") -> list[tuple[str, str]]:
    users = (item.partition(":") for item in split_list(settings.flower_basic_auth))
    return [(user, password) for user, _, password in users]


# For every process that connects to Redis or to the broker.
CONNECTION_RULES: Rules = {
    "TAKEONE_REDIS_URL and TAKEONE_BROKER_URL must not turn off the check of certificates":
        lambda it: it.production
        and bool(re.search(_UNVERIFIED, f"{it.redis_url} {it.broker_url}", re.IGNORECASE)),
    "TAKEONE_CA_FILE cannot be read, or holds no certificate in PEM": _has_unusable_ca_file,
}  # fmt: skip

STORE_RULES: Rules = {
    **CONNECTION_RULES,
    "TAKEONE_ORCHESTRATOR_WORKFLOW must name what TAKEONE_ORCHESTRATOR_KIND starts: an Airflow DAG, "
    "Prefect's flow/deployment, Temporal's Type@queue, Restate's Service/handler, the ARN of a state "
    "machine; nothing for a webhook":
        lambda it: not re.fullmatch(_WORKFLOWS.get(it.orchestrator_kind, ""), it.orchestrator_workflow),
    "TAKEONE_ORCHESTRATOR_KIND=step_functions needs botocore: pip install 'takeone[aws]'":
        lambda it: it.orchestrator_kind == "step_functions" and not find_spec("botocore"),
    "TAKEONE_ORCHESTRATOR_HEADERS must be headers such as `Authorization: Bearer …`, separated by `;`":
        lambda it: not all(
            re.fullmatch(_HEADER_NAME, name, re.ASCII) and value.isascii() and value.isprintable()
            for name, value in it.orchestrator_header_fields.items()
        ),
    "TAKEONE_ORCHESTRATOR_IDEMPOTENCY_SECONDS must be 0, or longer than two exchanges may take (2.2 times "
    "TAKEONE_ORCHESTRATOR_TIMEOUT_SECONDS and 15 seconds)":
        lambda it: 0 < it.orchestrator_idempotency_seconds <= it.resend_margin_seconds,
    "TAKEONE_REDIS_URL is not set":
        lambda it: it.production and "redis_url" not in it.model_fields_set,
    "TAKEONE_OTEL is set, but OpenTelemetry is not installed: pip install 'takeone[otel]'":
        lambda it: it.otel and not (find_spec("opentelemetry") and find_spec("opentelemetry.sdk")),
}  # fmt: skip

_PUBLIC_URL: Rules = {"TAKEONE_PUBLIC_URL is not set": lambda it: not it.public_url}

WORKER_RULES: Rules = {
    **STORE_RULES,
    **_PUBLIC_URL,
    "TAKEONE_ORCHESTRATOR_URL is not set":
        lambda it: not it.orchestrator_url and it.orchestrator_kind != "step_functions",
}  # fmt: skip

RULES: Rules = {
    **STORE_RULES,
    **_PUBLIC_URL,
    "TAKEONE_CALLBACK_SECRET is not set":
        lambda it: not it.callback_secrets and not it.signing_secrets,
    "TAKEONE_CALLBACK_SECRET must be printable ASCII without blanks: it travels in a header":
        lambda it: not all(re.fullmatch("[!-~]+", secret) for secret in it.callback_secrets),
    "TAKEONE_CALLBACK_SECRET is too short or a known default":
        lambda it: it.production
        and any(len(secret) < LEAST_SECRET_CHARACTERS or secret == DEV_CALLBACK_SECRET
                for secret in it.callback_secrets),
    "TAKEONE_AUTH_MODE=dev is not allowed in production":
        lambda it: it.production and it.auth_mode == "dev",
    "TAKEONE_AUTH_MODE=dev believes every caller: HOST must be a loopback address, such as 127.0.0.1":
        lambda it: it.auth_mode == "dev" and not is_loopback(it.listen_address),
    "one of TAKEONE_JWT_KEY and TAKEONE_JWT_JWKS_URL must be set":
        lambda it: it.auth_mode == "jwt" and bool(it.jwt_key) == bool(it.jwt_jwks_url),
    "TAKEONE_JWT_ISSUER is not set": lambda it: it.auth_mode == "jwt" and not it.jwt_issuer,
    "TAKEONE_JWT_AUDIENCE is not set": lambda it: it.auth_mode == "jwt" and not it.jwt_audience,
    "TAKEONE_JWT_ALGORITHMS must name signature algorithms": _has_unknown_algorithm,
    "TAKEONE_JWT_ALGORITHMS: shared-key algorithms cannot come from a JWKS URL":
        lambda it: bool(it.jwt_jwks_url) and _has_shared_key_algorithm(it),
    "TAKEONE_JWT_KEY must be a public key in PEM (or a shared key for HS256) that every algorithm of "
    "TAKEONE_JWT_ALGORITHMS can verify with": _has_unfit_key,
    f"TAKEONE_JWT_KEY: a shared key has at least {LEAST_SHARED_KEY_BYTES} bytes":
        lambda it: it.production and it.auth_mode == "jwt" and _has_shared_key_algorithm(it)
        and 0 < len(it.jwt_key.get_secret_value().encode()) < LEAST_SHARED_KEY_BYTES,
    "TAKEONE_JWT_JWKS_URL must be https":
        lambda it: it.production
        and urlsplit(it.jwt_jwks_url).scheme == "http"
        and not is_loopback(urlsplit(it.jwt_jwks_url).hostname or ""),
    "TAKEONE_MODEL_PROFILES names no profile": lambda it: not it.model_profiles,
    "TAKEONE_WEB_WAIT_SLOTS must be below TAKEONE_WEB_THREADS: waiting callers must leave threads free":
        lambda it: it.web_wait_slots >= it.web_threads,
}  # fmt: skip

FLOWER_RULES: Rules = {
    **CONNECTION_RULES,
    "TAKEONE_BROKER_URL (or TAKEONE_REDIS_URL) is not set":
        lambda it: it.production and not it.model_fields_set & {"broker_url", "redis_url"},
    "TAKEONE_FLOWER_BASIC_AUTH must be user:password, comma-separated, in ASCII":
        lambda it: not all(
            user and password and password.isascii() for user, password in _flower_users(it)
        ),
    "TAKEONE_FLOWER_BASIC_AUTH has a password that is too short":
        lambda it: it.production
        and any(len(password) < LEAST_SECRET_CHARACTERS for _, password in _flower_users(it)),
    "TAKEONE_FLOWER_URL_PREFIX must be a plain path, such as flower":
        lambda it: not re.fullmatch(r"[\w.~/-]*", it.flower_url_prefix, re.ASCII),
}  # fmt: skip
