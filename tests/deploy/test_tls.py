"""TLS to the store, the broker and the orchestrator, with a private authority."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from devstack.redis_server import RedisServer
from orchestrators.base import Request
from orchestrators.client import OrchestratorClient
from settings import FlowerSettings, Settings, SettingsError
from store.client import make_client, redis_errors
from store.errors import StoreUnavailable
from tasks.queues import broker_answers
from tests.conftest import NewStack
from tests.support.certificates import Authority
from tests.support.client import ApiClient
from tests.support.orchestrator import StubOrchestrator
from tests.support.tcp_proxy import TcpProxy


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def other_authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """An authority that has issued none of the servers' certificates."""
    return Authority(tmp_path_factory.mktemp("other"))


@pytest.fixture(scope="module")
def secure_redis(redis_server: RedisServer, authority: Authority) -> Iterator[TcpProxy]:
    """A Redis that accepts TLS only."""
    with TcpProxy(int(redis_server.port or 0), authority.server_context()) as proxy:
        yield proxy


def settings(**given: str) -> Settings:
    return Settings(env="development", redis_timeout_seconds=1, **given)


def store_answers(given: Settings) -> bool:
    client = make_client(given, connections=1)
    try:
        with redis_errors("PING"):
            return bool(client.ping())
    except StoreUnavailable:
        return False
    finally:
        client.close()


servers = pytest.mark.parametrize(
    ("host", "trusted", "answers"),
    [
        ("127.0.0.1", "authority", True),
        ("127.0.0.1", "other_authority", False),
        ("127.0.0.1", None, False),
        ("localhost", "authority", False),  # a name that is not in the certificate
    ],
)


@servers
def test_the_certificates_of_store_and_broker_are_verified(
    host: str,
    trusted: str | None,
    answers: bool,
    secure_redis: TcpProxy,
    request: pytest.FixtureRequest,
) -> None:
    ca_file = str(request.getfixturevalue(trusted).ca_file) if trusted else ""
    given = settings(redis_url=f"rediss://{host}:{secure_redis.port}/0", ca_file=ca_file)
    assert store_answers(given) is answers
    assert broker_answers(given) is answers


def test_the_redis_url_may_name_the_authority(secure_redis: TcpProxy, authority: Authority) -> None:
    url = f"rediss://127.0.0.1:{secure_redis.port}/0?ssl_ca_certs={authority.ca_file}"
    assert store_answers(settings(redis_url=url))
    assert broker_answers(settings(redis_url=url))


@servers
def test_the_orchestrators_certificate_is_verified(
    host: str,
    trusted: str | None,
    answers: bool,
    authority: Authority,
    request: pytest.FixtureRequest,
) -> None:
    ca_file = str(request.getfixturevalue(trusted).ca_file) if trusted else ""
    sender = OrchestratorClient(settings(ca_file=ca_file))
    with StubOrchestrator() as hub, TcpProxy(hub.port, authority.server_context()) as secure_hub:
        url = f"https://{host}:{secure_hub.port}/dispatches"
        assert sender.send(Request("POST", url, b"{}"), lambda: True).is_sent is answers
    assert bool(hub.requests) is answers


def test_a_run_uses_tls_on_every_connection(
    secure_redis: TcpProxy, redis_server: RedisServer, authority: Authority, new_stack: NewStack
) -> None:
    with (
        StubOrchestrator() as hub,
        TcpProxy(hub.port, authority.server_context()) as secure_hub,
        new_stack(
            redis=redis_server,
            TAKEONE_REDIS_URL=f"rediss://127.0.0.1:{secure_redis.port}/0",
            TAKEONE_ORCHESTRATOR_URL=f"https://127.0.0.1:{secure_hub.port}/dispatches",
            TAKEONE_CA_FILE=str(authority.ca_file),
        ) as stack,
    ):
        alice = ApiClient(stack.api_url, "alice")
        job_id = alice.uploaded_job()["id"]
        assert alice.run(job_id).status_code == 202
        assert [request.dispatch_id for request in hub.requests_for(job_id)] == [f"run-{job_id}"]
        assert secure_hub.connections_made == 1
        assert alice.call("GET", "/readyz").status_code == 200


@pytest.mark.parametrize("name", ["redis_url", "broker_url"])
@pytest.mark.parametrize("kind", [Settings, FlowerSettings])
def test_production_refuses_to_disable_certificate_checks(name: str, kind: type[Settings]) -> None:
    with pytest.raises(SettingsError, match="must not turn off the check of certificates"):
        kind(env="production", **{name: "rediss://redis.example.org/0?ssl_cert_reqs=none"})


def test_an_unreadable_authority_file_is_a_settings_error(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="TAKEONE_CA_FILE cannot be read"):
        settings(ca_file=str(tmp_path / "none.pem"))
