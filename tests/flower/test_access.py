"""Flower needs a login, changes nothing, and shows no secret."""

import re
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import requests
from flower.urls import handlers

from devstack.processes import Process
from devstack.stack import DEVELOPMENT_SETTINGS
from devstack.waiting import wait_until
from settings import Settings
from tasks.queues import queue_names
from tests.conftest import CALLBACK_SECRETS
from tests.flower.conftest import (
    BROKER_PASSWORD,
    PASSWORD,
    PLANTED,
    START_SECONDS,
    Flower,
    flower_process,
)

SECRETS = [*PLANTED.values(), *CALLBACK_SECRETS, PASSWORD, BROKER_PASSWORD]
SERVICE_SETTINGS = {
    "TAKEONE_REDIS_URL": "redis://127.0.0.1:1/0",
    "TAKEONE_PUBLIC_URL": "http://127.0.0.1:1",
    "TAKEONE_ORCHESTRATOR_URL": "http://127.0.0.1:1",
}
BROKER = "redis://127.0.0.1:1/0"


def routes() -> list[tuple[str, type]]:
    """Every path of Flower, with its placeholders filled in, and the class that handles it."""
    patterns = [(item.regex.pattern, item.handler_class) if hasattr(item, "regex") else item[:2]
                for item in handlers]  # fmt: skip
    return [(re.sub(r"\(\.[*+]\)", "anything", pattern).replace("/?", "").rstrip("$"), handler)
            for pattern, handler in patterns]  # fmt: skip


ROUTES = [(path, handler) for path, handler in routes() if path.startswith("/")]
READ_PATHS = [path for path, handler in ROUTES if "get" in vars(handler)]
WRITE_PATHS = [path for path, handler in ROUTES if "post" in vars(handler) and "/api/" in path]
# Scripts and styles are the same for all users, and logging out needs no login.
PUBLIC = {"/static/anything", "/logout", "/login"}


def test_flower_s_routes_are_found() -> None:
    assert {"/", "/tasks", "/metrics", "/healthcheck", "/api/tasks", "/broker"} <= set(READ_PATHS)
    assert {"/api/worker/shutdown/anything", "/api/task/revoke/anything"} <= set(WRITE_PATHS)


@pytest.mark.parametrize("path", [path for path in READ_PATHS if path not in PUBLIC])
@pytest.mark.parametrize("password", [None, "wrong", "pässword"])
def test_reading_needs_a_login(path: str, password: str | None, flower: Flower) -> None:
    answer = call("GET", flower.url(path), password)
    assert answer.status_code == 401
    assert len(answer.text) < 100


@pytest.mark.parametrize("path", WRITE_PATHS)
def test_writing_needs_a_login(path: str, flower: Flower) -> None:
    assert call("POST", flower.url(path), None).status_code == 401


@pytest.mark.parametrize("path", WRITE_PATHS)
def test_a_user_cannot_write(path: str, flower: Flower) -> None:
    answer = flower.session.post(flower.url(path), json={}, timeout=10)
    assert answer.status_code == 403
    assert "read only" in answer.text.lower()


def test_each_user_in_the_list_may_read(flower: Flower) -> None:
    other = ("other", "another-password-of-flower")
    assert requests.get(flower.url("/tasks"), auth=other, timeout=10).status_code == 200


def test_flower_is_served_under_its_prefix_only(flower: Flower) -> None:
    assert flower.session.get(f"{flower.process.url}/tasks", timeout=10).status_code == 404


def test_the_broker_page_counts_the_queues(flower: Flower) -> None:
    queues = flower.get("/api/queues/length").json()["active_queues"]
    assert {queue["name"] for queue in queues} == set(queue_names(Settings(env="development")))
    assert all(isinstance(queue["messages"], int) for queue in queues)


def test_no_page_shows_a_secret(flower: Flower, dispatches: dict[str, str]) -> None:
    flower.wait_for(dispatches["refused"], "FAILURE")
    pages = [flower.get(path).text for path in [*READ_PATHS, *detail_pages(flower, dispatches)]]
    assert any(dispatches["refused"] in page for page in pages)
    for secret in SECRETS:
        assert not [page for page in pages if secret in page], secret


def test_flower_s_log_shows_no_secret_and_no_text_of_a_request(flower: Flower) -> None:
    flower.get(f"/task/{PLANTED['request']}")
    flower.get(f"/{PLANTED['request']}")
    log = flower.process.log()
    assert '"event":"Broker: redis://flower:**@' in log
    assert not [secret for secret in SECRETS if secret in log]


def detail_pages(flower: Flower, dispatches: dict[str, str]) -> list[str]:
    """The pages about a worker or a task, and the data of the tables."""
    table = "draw=1&start=0&length=100&search[value]=&order[0][column]=0&order[0][dir]=asc"
    return [
        f"/worker/{flower.worker()}",
        "/workers?json=1",
        "/api/workers?refresh=1",
        f"/tasks/datatable?{table}&columns[0][data]=received",
        *(f"/task/{task_id}" for task_id in dispatches.values()),
        *(f"/api/task/info/{task_id}" for task_id in dispatches.values()),
    ]


def call(method: str, url: str, password: str | None) -> requests.Response:
    auth = (b"ops", password.encode()) if password is not None else None
    with requests.Session() as session:
        session.trust_env = False
        return session.request(method, url, auth=auth, timeout=10, allow_redirects=False)


# Settings, and all the problems that are to be reported at once.
REFUSED = [
    ({}, ["TAKEONE_FLOWER_BASIC_AUTH is not set"]),
    (
        {
            "TAKEONE_BROKER_URL": "",
            "TAKEONE_FLOWER_BASIC_AUTH": "a-password-alone-is-no-user, ops:short",
            "TAKEONE_FLOWER_URL_PREFIX": "a b?",
        },
        [
            "TAKEONE_BROKER_URL (or TAKEONE_REDIS_URL) is not set",
            "TAKEONE_FLOWER_BASIC_AUTH must be user:password",
            "TAKEONE_FLOWER_BASIC_AUTH has a password that is too short",
            "TAKEONE_FLOWER_URL_PREFIX must be a plain path",
        ],
    ),
]


Start = Callable[[Process], Process]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts processes, which end with the test."""
    with ExitStack() as processes:

        def start(process: Process) -> Process:
            processes.callback(process.terminate)
            process.start()
            return process

        yield start


def production_flower(directory: Path, settings: dict[str, str]) -> Process:
    base = {"TAKEONE_ENV": "production", "TAKEONE_BROKER_URL": BROKER}
    settings = {name: value for name, value in (base | settings).items() if value}
    return flower_process(directory, settings)


@pytest.mark.parametrize(("settings", "problems"), REFUSED)
def test_unsafe_settings_stop_flower_in_production(
    settings: dict[str, str], problems: list[str], tmp_path: Path, start: Start
) -> None:
    process = start(production_flower(tmp_path, settings))
    wait_until(lambda: not process.is_running, START_SECONDS, "Flower gives up")
    assert "takeone refuses to start" in process.log()
    assert [problem for problem in problems if problem not in process.log()] == []
    assert "Traceback" not in process.log()


@pytest.mark.parametrize("app", ["tasks.flower_app", "tasks.worker", "tasks.app"])
@pytest.mark.parametrize("env", ["production", "development"])
def test_flower_refuses_to_start_without_a_password_with_any_app(
    app: str, env: str, tmp_path: Path, start: Start
) -> None:
    settings = {
        **DEVELOPMENT_SETTINGS,
        **SERVICE_SETTINGS,
        "TAKEONE_ENV": env,
        "HOST": "0.0.0.0",
        "FLOWER_READ_ONLY": "false",
        "FLOWER_CONF": "flowerconfig.py",
    }
    if app == "tasks.flower_app":  # also without our file of options
        settings["FLOWER_CONF"] = str(tmp_path / "empty.py")
        (tmp_path / "empty.py").write_text("")
    command = f"{sys.executable} -m celery --app {app} flower --port=$PORT"
    process = start(flower_process(tmp_path, settings, command))
    wait_until(lambda: not process.is_running, START_SECONDS, "Flower gives up")
    assert "TAKEONE_FLOWER_BASIC_AUTH is not set" in process.log()


def test_flower_s_own_oauth_settings_replace_the_password(tmp_path: Path, start: Start) -> None:
    settings = {
        "FLOWER_AUTH": "ops@example.org",
        "FLOWER_AUTH_PROVIDER": "flower.views.auth.GithubLoginHandler",
        "FLOWER_OAUTH2_KEY": "key",
        "FLOWER_OAUTH2_SECRET": "planted-oauth-secret",
        "FLOWER_OAUTH2_REDIRECT_URI": "http://127.0.0.1/login",
        "FLOWER_READ_ONLY": "false",
    }
    process = start(production_flower(tmp_path, settings))
    process.wait_until(lambda: "Visit me" in process.log(), START_SECONDS, "Flower serves")
    for path in ("/tasks", "/metrics", "/healthcheck", "/api/tasks"):
        answer = call("GET", process.url + path, None)
        assert answer.status_code == 302
        assert answer.headers["Location"].startswith("/login")
    login = call("GET", process.url + "/login", None).headers["Location"]
    assert login.startswith("https://github.com/login/oauth/authorize?")
    assert "planted-oauth-secret" not in login + process.log()
