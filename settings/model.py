"""The settings themselves: each a field of one class."""

import sys
from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import cache, partial
from hashlib import sha256
from typing import Any, ClassVar, Literal, Self, TypeVar

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
from settings.rules import DEV_CALLBACK_SECRET, FLOWER_RULES, RULES, STORE_RULES, WORKER_RULES, Rule
from settings.sources import PREFIX, renamed_variables, values_from_files, variable_of
from settings.types import split_list

Kind = TypeVar("Kind", bound="Settings")

_DEVELOPMENT_DEFAULTS = {
    "callback_secret": DEV_CALLBACK_SECRET,
    "auth_mode": "dev",
    "public_url": "http://127.0.0.1:8000",
    "orchestrator_url": "http://127.0.0.1:5678/webhook/takeone",
}


class SettingsError(Exception):
    """The settings are incomplete or unsafe; the message names every problem, and no value."""


class Settings(BaseSettings):
    """What an operator can set. Every field is an environment variable: TAKEONE_ and its name.

    The text below a field is its meaning in docs/configuration.md. A field with `repr=False` may hold a
    password: it is not shown, and may come from a file.
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        frozen=True,
        extra="ignore",
        hide_input_in_errors=True,
        use_attribute_docstrings=True,
    )

    rules: ClassVar[Sequence[Rule]] = RULES

    env: Literal["development", "production"] = "production"
    """development allows defaults that production refuses"""
    # PORT and HOST have no prefix: platforms set them.
    host: types.Host = Field("", validation_alias="host")
    """the address that web, Flower and a worker's /metrics listen on; empty: every address in
    production, this machine's own in development"""
    port: types.Port = Field(8000, validation_alias="port")
    """where web listens; Flower: 5555"""

    redis_url: types.RedisUrl = Field("redis://127.0.0.1:6379/0", repr=False)
    """the store: redis://, rediss:// or sentinel://host:port,host:port/db"""
    redis_sentinel_master: str = "mymaster"
    """the primary's name at the sentinels"""
    redis_sentinel_password: SecretStr = SecretStr("")
    """the sentinels' own password, where they have one"""
    ca_file: str = ""
    """file with the certificate authorities to trust, for the store, the broker and the orchestrator;
    empty: the public ones"""
    redis_timeout_seconds: types.Seconds = 1.0
    """limit of each wait for the store"""
    redis_connections: int = Field(32, ge=1)
    """connections to the store, each process"""
    broker_url: types.BrokerUrl = Field("", repr=False)
    """Celery's broker; empty: the store's Redis, under another key prefix"""
    dispatch_queues: int = Field(16, ge=1, le=64)
    """queues that dispatches are spread over, so users share fairly"""

    orchestrator_url: types.OrchestratorUrl = Field("", repr=False)
    """where a dispatch is posted to (http or https)"""
    orchestrator_cancel_url: types.OrchestratorUrl = Field("", repr=False)
    """where a cancel is posted to; empty: the orchestrator learns by its 409"""
    orchestrator_timeout_seconds: types.Seconds = 60
    """limit of the whole exchange with the orchestrator"""
    orchestrator_connect_timeout_seconds: types.Seconds = 2
    """limit of each try to connect to the orchestrator"""
    orchestrator_connect_tries: int = Field(3, ge=1, le=10)
    """tries to connect before a dispatch counts as not started"""
    orchestrator_idle_seconds: types.Seconds = 4
    """how long a connection to the orchestrator may lie unused and be used again"""
    orchestrator_kind: types.OrchestratorKind = "webhook"
    """how the orchestrator is spoken to; the same for web and workers"""
    orchestrator_workflow: str = ""
    """what is started: a DAG, flow/deployment, Type@queue, Service/handler, a state machine's ARN;
    none for a webhook"""
    orchestrator_namespace: str = ""
    """Temporal's namespace; empty: default"""
    orchestrator_credentials: SecretStr = SecretStr("")
    """`user:password`, a bearer token, or AWS's `ACCESS_KEY:SECRET`, where the orchestrator wants one;
    for Step Functions empty means what every AWS tool finds"""
    orchestrator_headers: SecretStr = SecretStr("")
    """headers that a webhook wants, such as `Authorization: Bearer …`, one a line or separated by `;`"""
    orchestrator_idempotency_seconds: types.AtMostAYear = 0
    """how long a webhook recognises an Idempotency-Key: for that long an unknown outcome is sent again; 0:
    not at all"""

    breaker_failures: int = Field(20, ge=0)
    """posts in a row without an answer that open the circuit; 0: never"""
    breaker_seconds: types.Seconds = 5
    """how long nothing is posted while the circuit is open, but for a probe"""
    orchestrator_use_proxies: bool = False
    """honour HTTP_PROXY and the like towards the orchestrator"""

    public_url: types.PublicUrl = ""
    """what callback_url begins with"""
    callback_secret: SecretStr = SecretStr("")
    """secrets of the status callback, comma-separated, all valid"""
    signing_secret: types.SigningSecrets = SecretStr("")
    """secrets of Standard Webhooks (`whsec_…`), comma-separated: the first signs dispatches, each is
    valid for a signed callback; empty: nothing is signed"""

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
    jwt_algorithms: str = "RS256"
    """accepted algorithms, comma-separated"""
    jwt_leeway_seconds: float = Field(10, ge=0, le=300)
    """tolerance for clocks"""
    jwt_roles_claim: str = "roles"
    """the claim (text or list) that names roles"""

    run_wait_seconds: float = Field(10, ge=0, le=60)
    """how long run and retry wait for the outcome"""
    write_limit: types.RateLimit = ""
    """how often one user may change something (create, edit, delete, confirm, run, retry, cancel),
    such as 60/minute; empty: no limit"""
    idempotency_key_seconds: int = Field(604_800, ge=60, le=31_536_000)
    """how long the `Idempotency-Key` of what was created is remembered"""
    retention_days: int = Field(0, ge=0, le=36_500)
    """how long a job is kept once it has come to rest (ended, with nothing of it open); then it is
    gone with its trail. 0: for ever. The same for web and workers"""
    unknown_hold_seconds: types.AtMostAYear = 60
    """how long an unknown outcome is held; 0: until it is settled"""

    first_report_seconds: types.AtMostAYear = 600
    """how long an accepted dispatch may report nothing before its job counts as silent; 0: for ever"""
    silent_after_seconds: types.AtMostAYear = 3_600
    """how long a job that has reported may then report nothing; 0: for ever"""

    claim_lease_seconds: types.Seconds = 15
    """how long a claim may lie before its message is sent again"""
    sweep_interval_seconds: types.Seconds = 1
    """how often claims are looked after"""
    worker_concurrency: int = Field(32, ge=1, le=1_000)
    """dispatches in flight, each worker process"""
    worker_metrics_port: types.Port = 0
    """where a worker serves /metrics; 0: nowhere"""

    web_processes: int = Field(1, ge=1, le=64)
    """processes of the web server"""
    web_threads: int = Field(320, ge=4, le=4_000)
    """threads, each web process"""
    web_wait_slots: int = Field(256, ge=1)
    """callers that may wait at once, each web process: for a dispatch (more get 503), and up to half
    of them in long polls (more are answered at once); one user has half of each"""

    model_profiles: str = "standard,fast,quality"
    """what a retry may ask for, comma-separated"""
    allowed_hosts: str = ""
    """the `Host` names that are answered, comma-separated, beside PUBLIC_URL's; empty: every name"""
    cors_origins: types.Origins = ""
    """origins whose pages may call the API, comma-separated; empty: none"""

    otel: bool = False
    """send traces by OTLP, as OpenTelemetry's own OTEL_ variables say"""
    max_body_bytes: int = Field(65_536, ge=1_024)
    """the largest request body"""
    flower_basic_auth: SecretStr = SecretStr("")
    """who may look at Flower: user:password, comma-separated. Production needs this or Flower's own
    OAuth settings (FLOWER_AUTH and what belongs to it)"""
    flower_url_prefix: str = ""
    """path that Flower is served under, such as flower; empty: the root"""

    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """log level"""
    log_format: Literal["json", "console", ""] = ""
    """json or console; empty: json in production"""
    log_hash_key: SecretStr = SecretStr("")
    """key of the hashes that stand for callers' identifiers in logs; empty: derived from the callback
    secret. The same in web and workers, so that one request is found in both"""

    @property
    def production(self) -> bool:
        """Whether nothing may be guessed."""
        return self.env == "production"

    @property
    def listen_address(self) -> str:
        """The address that this process listens on."""
        return self.host or ("0.0.0.0" if self.production else "127.0.0.1")  # noqa: S104

    @property
    def callback_secrets(self) -> tuple[str, ...]:
        """Every valid callback secret."""
        return split_list(self.callback_secret)

    @property
    def signing_secrets(self) -> tuple[str, ...]:
        """Every valid signing secret; the first one signs."""
        return split_list(self.signing_secret)

    @property
    def retention(self) -> timedelta | None:
        """How long a job at rest is kept; None: for ever."""
        return timedelta(days=self.retention_days) if self.retention_days else None

    @property
    def broker_is_store(self) -> bool:
        """Whether a message can be pushed in the same command as the claim it is for."""
        return self.broker_url in ("", self.redis_url)

    @property
    def send_lease_seconds(self) -> float:
        """How long a worker may take from its intent to post to the outcome, asking included.

        Longer than both, so that the sweep never calls a post unknown that its worker is still to settle.
        """
        asking = 0 if self.orchestrator_kind == "webhook" else 20
        return self.orchestrator_timeout_seconds * 1.1 + 5 + asking

    @property
    def resend_margin_seconds(self) -> float:
        """How long before an orchestrator forgets a dispatch it is not sent again any more.

        A send may take its whole lease, be held by a gateway for as long, and clocks are apart.
        """
        return 2 * self.send_lease_seconds + 5

    @property
    def orchestrator_header_fields(self) -> dict[str, str]:
        """The headers that a webhook wants."""
        given = self.orchestrator_headers.get_secret_value().replace("\n", ";").split(";")
        fields = (each.partition(":") for each in given if each.strip())
        return {name.strip(): value.strip() for name, _, value in fields}

    @property
    def log_key(self) -> bytes:
        """The key of the hashes in the logs; every process of a deployment has the same."""
        return sha256(b"takeone-log:" + self._log_secret.encode()).digest()

    @property
    def has_log_key(self) -> bool:
        """Whether the key of the hashes is secret."""
        return bool(self._log_secret)

    @property
    def _log_secret(self) -> str:
        given = (self.log_hash_key, self.callback_secret, self.signing_secret)
        return next(filter(None, (each.get_secret_value() for each in given)), "")

    @field_validator("*", mode="before")
    @classmethod
    def _stripped(cls, value: Any) -> Any:
        # A line feed at the end is a file's, and means nothing.
        return value.strip() if isinstance(value, str) else value

    @model_validator(mode="wrap")
    @classmethod
    def _complete_and_safe(
        cls, values: dict[str, Any], validated: ModelWrapValidatorHandler[Self]
    ) -> Self:
        """Name everything that is wrong at once: each field, and what does not fit together."""
        if values.get("env") == "development":
            values = {**_DEVELOPMENT_DEFAULTS, **values}
        from_files, found = values_from_files(cls)
        values = {**values, **from_files}
        try:
            settings = validated(values)
        except ValidationError as error:
            found = {str(each["loc"][0]): _problem(each) for each in error.errors()} | found
            settings = validated({name: values[name] for name in values.keys() - found.keys()})
        # A rule that reads a setting whose value is not known is passed over.
        known = [rule for rule in cls.rules if found.keys().isdisjoint(rule.reads.split())]
        broken = [rule.problem for rule in known if rule.broken(settings)]
        if every := [*renamed_variables(), *found.values(), *broken]:
            raise ValueError("\n".join(every))
        return settings


class StoreSettings(Settings):
    """What it takes to reach the store and the broker."""

    rules: ClassVar[Sequence[Rule]] = STORE_RULES


class WorkerSettings(Settings):
    """What a `worker` process reads: it sends dispatches, and knows nothing of callers."""

    rules: ClassVar[Sequence[Rule]] = WORKER_RULES


class FlowerSettings(Settings):
    """What the `flower` process reads: it needs the broker, and none of the service's secrets."""

    rules: ClassVar[Sequence[Rule]] = FLOWER_RULES


def or_exit(load: Callable[[], Kind]) -> Kind:
    """What `load` returns; the process ends, and says why, if the settings are incomplete or unsafe."""
    try:
        return load()
    except SettingsError as error:
        sys.exit(f"takeone refuses to start:\n{error}")


def _read(kind: type[Kind]) -> Kind:
    try:
        return kind()
    except ValidationError as error:
        raise SettingsError("\n".join(_said(each) for each in error.errors())) from None


def _problem(error: Any) -> str:
    said = _said(error)
    return said if said.startswith(PREFIX) else f"{variable_of(str(error['loc'][0]))}: {said}"


def _said(error: Any) -> str:
    return str(error["msg"]).removeprefix("Value error, ")


# Each reads the settings of its process once, and raises `SettingsError`.
load_settings = cache(partial(_read, Settings))
load_store_settings = cache(partial(_read, StoreSettings))
load_worker_settings = cache(partial(_read, WorkerSettings))
load_flower_settings = cache(partial(_read, FlowerSettings))
