"""The settings: each is a field of one class."""

import sys
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from functools import cache
from hashlib import sha256
from typing import Any, ClassVar, Literal, Self

from pydantic import (
    Field,
    ModelWrapValidatorHandler,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, SettingsConfigDict

from settings import types
from settings.rules import (
    DEV_CALLBACK_SECRET,
    FLOWER_RULES,
    RULES,
    STORE_RULES,
    WORKER_RULES,
    Rules,
)
from settings.sources import PREFIX, renamed_variables, values_from_files, variable_of
from settings.types import split_list

_DEVELOPMENT_DEFAULTS = {
    "callback_secret": DEV_CALLBACK_SECRET,
    "auth_mode": "dev",
    "public_url": "http://127.0.0.1:8000",
    "orchestrator_url": "http://127.0.0.1:5678/webhook/takeone",
}


class SettingsError(Exception):
    """The settings are incomplete or unsafe; the message names every problem, and no value."""


class Settings(BaseSettings):
    """What an operator can set. Each field is an environment variable: TAKEONE_ and its name.

    The text below a field is its meaning in docs/configuration.md. A field with `repr=False` may hold a
    password: it is never shown, and may come from a file.
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        frozen=True,
        extra="ignore",
        hide_input_in_errors=True,
        use_attribute_docstrings=True,
    )

    rules: ClassVar[Rules] = RULES

    env: Literal["development", "production"] = "production"
    """development allows defaults that production refuses"""
    # PORT and HOST have no prefix: platforms set them.
    host: types.Host = Field("", validation_alias="host")
    """the address that web, Flower and a worker's /metrics listen on; empty: every address in
    production, the loopback address in development"""
    port: types.Port = Field(8000, validation_alias="port")
    """where web listens; Flower: 5555"""

    redis_url: types.RedisUrl = Field("redis://127.0.0.1:6379/0", repr=False)
    """the store: redis://, rediss:// or sentinel://host:port,host:port/db"""
    redis_sentinel_master: str = "mymaster"
    """the name of the primary, as the sentinels know it"""
    redis_sentinel_password: SecretStr = SecretStr("")
    """the sentinels' own password, if they have one"""
    ca_file: str = ""
    """file with the certificate authorities to trust, for the store, the broker and the orchestrator;
    empty: the public ones"""
    redis_timeout_seconds: types.Seconds = 1.0
    """timeout of each wait for the store: for a connection or for a reply"""
    redis_connections: int = Field(32, ge=1)
    """connections to the store, per process"""
    broker_url: types.BrokerUrl = Field("", repr=False)
    """Celery's broker; empty: the store's Redis, under another key prefix"""
    dispatch_queues: int = Field(16, ge=1, le=64)
    """queues that dispatches are spread over, so that no user holds up the others; the same for web and
    workers"""

    orchestrator_url: types.OrchestratorUrl = Field("", repr=False)
    """where a dispatch is posted to (http or https)"""
    orchestrator_cancel_url: types.OrchestratorUrl = Field("", repr=False)
    """where a cancel is posted to; empty: the orchestrator learns by its 409"""
    orchestrator_timeout_seconds: types.Seconds = 60
    """timeout of the whole exchange with the orchestrator"""
    orchestrator_connect_timeout_seconds: types.Seconds = 2
    """timeout of each try to connect to the orchestrator"""
    orchestrator_connect_tries: int = Field(3, ge=1, le=10)
    """tries to connect before a dispatch counts as not started"""
    orchestrator_idle_seconds: types.Seconds = 4
    """how long an idle connection to the orchestrator is kept for reuse"""
    orchestrator_kind: types.OrchestratorKind = "webhook"
    """the kind of orchestrator; the same for web and workers"""
    orchestrator_workflow: str = ""
    """what is started: a DAG, flow/deployment, Type@queue, Service/handler, a state machine's ARN;
    none for a webhook"""
    orchestrator_namespace: str = ""
    """Temporal's namespace; empty: default"""
    orchestrator_credentials: SecretStr = SecretStr("")
    """`user:password`, a bearer token, or AWS's `ACCESS_KEY:SECRET`, if the orchestrator requires
    one; empty for Step Functions: AWS's default credential chain"""
    orchestrator_headers: SecretStr = SecretStr("")
    """headers that a webhook requires, such as `Authorization: Bearer …`, one per line or separated by `;`"""
    orchestrator_idempotency_seconds: types.AtMostAYear = 0
    """how long a webhook recognises an Idempotency-Key: an unknown outcome is sent again within that time;
    0: not at all"""

    breaker_failures: int = Field(20, ge=0)
    """consecutive posts without an answer that open the circuit; 0: never"""
    breaker_seconds: types.Seconds = 5
    """how long an open circuit waits before each probe"""
    orchestrator_use_proxies: bool = False
    """honour HTTP_PROXY and the like towards the orchestrator"""

    public_url: types.PublicUrl = ""
    """what callback_url begins with"""
    callback_secret: SecretStr = SecretStr("")
    """secrets that a status callback may use, comma-separated"""
    signing_secret: types.SigningSecrets = SecretStr("")
    """secrets of Standard Webhooks (`whsec_…`), comma-separated: the first signs dispatches, any of
    them may sign a callback; empty: nothing is signed"""

    auth_mode: Literal["dev", "jwt"] = "jwt"
    """dev tokens are for development"""
    jwt_key: types.JwtKey = SecretStr("")
    """PEM public key, or shared key for HS256"""
    jwt_jwks_url: types.HttpUrl = ""
    """where the issuer publishes its keys"""
    jwt_issuer: str = ""
    """the `iss` that a token must have"""
    jwt_audience: str = ""
    """the `aud` that a token must have"""
    jwt_algorithms: types.Items = ("RS256",)
    """accepted algorithms, comma-separated"""
    jwt_leeway_seconds: float = Field(10, ge=0, le=300)
    """tolerated difference between clocks"""
    jwt_roles_claim: str = "roles"
    """the claim (text or list) that names roles"""

    run_wait_seconds: float = Field(10, ge=0, le=60)
    """how long run and retry wait for the outcome"""
    write_limit: types.RateLimit = ""
    """how often a user may change something (create, edit, delete, confirm, run, retry, cancel),
    such as 60/minute; empty: no limit"""
    idempotency_key_seconds: int = Field(604_800, ge=60, le=31_536_000)
    """how long the `Idempotency-Key` of a created project or job is remembered"""
    retention_days: int = Field(0, ge=0, le=36_500)
    """how long a job is kept once it is at rest (ended, with no open dispatch); it is then deleted with
    its trail. 0: forever. The same for web and workers"""
    unknown_hold_seconds: types.AtMostAYear = 60
    """how long an unknown outcome is held; 0: until it is settled"""

    first_report_seconds: types.AtMostAYear = 600
    """how long an accepted dispatch may report nothing before its job counts as silent; 0: forever"""
    silent_after_seconds: types.AtMostAYear = 3_600
    """how long a job may report nothing after a report before it counts as silent; 0: forever"""

    claim_lease_seconds: types.Seconds = 15
    """how long a claim waits for a worker before its message is sent again"""
    sweep_interval_seconds: types.Seconds = 1
    """how often the workers sweep: they resend, settle or free claims that are due"""
    worker_concurrency: int = Field(32, ge=1, le=1_000)
    """concurrent dispatches, per worker process"""
    worker_metrics_port: types.Port = 0
    """the port of a worker's /metrics; 0: none"""

    web_processes: int = Field(1, ge=1, le=64)
    """processes of the web server"""
    # Callers without a token can hold 16 by the bodies of signed callbacks, and some by not reading an answer.
    web_threads: int = Field(320, ge=32, le=4_000)
    """threads, per web process"""
    web_wait_slots: int = Field(256, ge=1)
    """callers that may wait at the same time, per web process: for a dispatch (beyond it: 503), and half
    of them in long polls (beyond it: answered at once); one user may have half of each"""

    model_profiles: types.Items = ("standard", "fast", "quality")
    """model profiles that a retry may request, comma-separated"""
    allowed_hosts: str = ""
    """accepted `Host` names besides PUBLIC_URL's, comma-separated; empty: every name"""
    cors_origins: types.Origins = ()
    """origins whose pages may call the API, comma-separated; empty: none"""

    otel: bool = False
    """send traces by OTLP, configured by OpenTelemetry's own OTEL_ variables"""
    max_body_bytes: int = Field(65_536, ge=1_024)
    """the largest request body"""
    flower_basic_auth: SecretStr = SecretStr("")
    """Flower's users: user:password, comma-separated. Production needs this or Flower's own OAuth
    settings (FLOWER_AUTH and the others)"""
    flower_url_prefix: str = ""
    """the path that Flower is served under, such as flower; empty: the root"""

    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """log level"""
    log_format: Literal["json", "console", ""] = ""
    """json or console; empty: json in production"""
    log_hash_key: SecretStr = SecretStr("")
    """key of the hashes that replace callers' identifiers in logs; empty: derived from the callback
    secret. The same in web and workers, so that a request can be followed through both"""

    @property
    def production(self) -> bool:
        """Whether unsafe settings and missing ones are refused."""
        return self.env == "production"

    @property
    def listen_address(self) -> str:
        """The address that this process listens on."""
        return self.host or ("0.0.0.0" if self.production else "127.0.0.1")  # noqa: S104

    @property
    def callback_secrets(self) -> tuple[str, ...]:
        """The valid callback secrets."""
        return split_list(self.callback_secret)

    @property
    def signing_secrets(self) -> tuple[str, ...]:
        """The valid signing secrets; the first one signs."""
        return split_list(self.signing_secret)

    @property
    def retention(self) -> timedelta | None:
        """How long a job at rest is kept; None: forever."""
        return timedelta(days=self.retention_days) if self.retention_days else None

    @property
    def broker_is_store(self) -> bool:
        """Whether a message can be pushed in the same Redis command that writes its claim."""
        return self.broker_url in ("", self.redis_url)

    @property
    def send_lease_seconds(self) -> float:
        """How long a worker may take from the intent to post to the outcome, with a question in between.

        It is longer than both take: the sweep must not call a post unknown that is still being settled.
        """
        asking = 0 if self.orchestrator_kind == "webhook" else 20
        return self.orchestrator_timeout_seconds * 1.1 + 5 + asking

    @property
    def resend_margin_seconds(self) -> float:
        """How long before the end of the orchestrator's idempotency window the last resend may begin.

        A send may take its whole lease, a gateway may hold it for as long, and clocks differ.
        """
        return 2 * self.send_lease_seconds + 5

    @property
    def orchestrator_header_fields(self) -> dict[str, str]:
        """The headers of a webhook, by name."""
        lines = self.orchestrator_headers.get_secret_value().replace("\n", ";").split(";")
        fields = (line.partition(":") for line in lines if line.strip())
        return {name.strip(): value.strip() for name, _, value in fields}

    @property
    def log_secret(self) -> str:
        """The secret that `log_key` is derived from; empty if none is set, and the key is no secret then."""
        secret = self.log_hash_key or self.callback_secret or self.signing_secret
        return secret.get_secret_value()

    @property
    def log_key(self) -> bytes:
        """The key of the hashes in the logs; the same in every process of a deployment."""
        return sha256(b"takeone-log:" + self.log_secret.encode()).digest()

    @field_validator("*", mode="before")
    @classmethod
    def _strip(cls, value: Any) -> Any:
        return value.strip() if isinstance(value, str) else value

    @model_validator(mode="wrap")
    @classmethod
    def _check(cls, values: dict[str, Any], validate: ModelWrapValidatorHandler[Self]) -> Self:
        """Add defaults and files to the environment's values, and raise `SettingsError` for all problems."""
        if values.get("env") == "development":
            values = _DEVELOPMENT_DEFAULTS | values
        from_files, problems = values_from_files(cls)
        values = values | from_files
        try:
            settings = validate(values)
        except ValidationError as error:
            problems = {str(item["loc"][0]): _message(item) for item in error.errors()} | problems
            settings = validate({name: values[name] for name in values.keys() - problems.keys()})
        # A rule that reads one of these raises AttributeError, and is skipped: the start is refused anyway.
        skipped = (AttributeError,) if problems else ()
        for name in problems:
            vars(settings).pop(name, None)
            settings.model_fields_set.add(name)
        lines = [*renamed_variables(), *problems.values()]
        for problem, has_problem in cls.rules.items():
            with suppress(*skipped):
                if has_problem(settings):
                    lines.append(problem)
        if lines:
            raise SettingsError("\n".join(lines))
        return settings


class StoreSettings(Settings):
    """What it takes to reach the store and the broker."""

    rules: ClassVar[Rules] = STORE_RULES


class WorkerSettings(Settings):
    """For a `worker` process: it sends dispatches, and does not authenticate callers."""

    rules: ClassVar[Rules] = WORKER_RULES


class FlowerSettings(Settings):
    """For the `flower` process: it needs the broker, and none of the service's secrets."""

    rules: ClassVar[Rules] = FLOWER_RULES


# Each reads the settings of its process once, and raises `SettingsError`.
load_settings = cache(Settings)
load_store_settings = cache(StoreSettings)
load_worker_settings = cache(WorkerSettings)
load_flower_settings = cache(FlowerSettings)


def or_exit(load: Callable[[], Settings]) -> Settings:
    """Return what `load` returns; exit with the problems if the settings are incomplete or unsafe."""
    try:
        return load()
    except SettingsError as error:
        sys.exit(f"takeone refuses to start:\n{error}")


def _message(error: Any) -> str:
    return f"{variable_of(str(error['loc'][0]))}: {str(error['msg']).removeprefix('Value error, ')}"
