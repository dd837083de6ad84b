"""A real Airflow on PostgreSQL, with the DAG of the example."""

import json
import os
import subprocess
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any

import requests

from devstack.ports import HOST, free_port
from devstack.processes import ROOT, Process, clean_environment, stop_all
from domain.claim import ClaimEvent, Refusal, RunState
from tests.engines.contract import EngineServer
from tests.engines.installing import example_environment
from tests.engines.postgres import PostgresServer
from tests.support.behaviours import Request

EXAMPLE = ROOT / "examples" / "airflow"
WORKFLOW = "take_one"
CREDENTIALS = "takeone:a password"
READER = "reader:may only look"  # may not start runs
MIGRATE_SECONDS = 120.0
START_SECONDS = 120.0


class AirflowServer(EngineServer):
    """The database and Airflow's three processes, each of which can be stopped separately."""

    kind, workflow = "airflow", WORKFLOW
    refusals = MappingProxyType(
        {
            Refusal.UNKNOWN_WORKFLOW: {"workflow": "nothing_of_that_name"},
            Refusal.UNAUTHORIZED: {"credentials": "takeone:another password"},
        }
    )
    repeated_start = start_after_end = ClaimEvent.FOUND
    cancelled = frozenset({RunState.FAILED})

    def __init__(self, directory: Path, callback_secret: str) -> None:
        databases = ("psycopg2-binary==2.9.13", "asyncpg==0.32.0")
        self._programs = example_environment("airflow", EXAMPLE, *databases)
        self.directory = directory
        self.database = PostgresServer(directory / "postgres.log")
        port = free_port()
        self.url = f"http://{HOST}:{port}"
        self._environment = self._settings(port, callback_secret)
        self.api = self._process("api-server", port=port)
        self.scheduler = self._process("scheduler", "--skip-serve-logs")
        self.dag_processor = self._process("dag-processor")
        self.token = ""

    def _settings(self, port: int, callback_secret: str) -> dict[str, str]:
        users = [CREDENTIALS.partition(":"), READER.partition(":")]
        passwords = self.directory / "passwords.json"
        passwords.write_text(json.dumps({user: password for user, _, password in users}))
        (user, *_), (reader, *_) = users
        settings = {
            "CORE__DAGS_FOLDER": str(EXAMPLE),
            "CORE__LOAD_EXAMPLES": "False",
            "CORE__EXECUTOR": "LocalExecutor",
            "CORE__PARALLELISM": "4",
            "CORE__EXECUTION_API_SERVER_URL": f"{self.url}/execution/",
            "CORE__SIMPLE_AUTH_MANAGER_USERS": f"{user}:user,{reader}:viewer",
            "CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(passwords),
            "DATABASE__SQL_ALCHEMY_CONN": self.database.address("airflow", "postgresql+psycopg2"),
            "API__HOST": HOST,
            "API__PORT": str(port),
            "API__BASE_URL": self.url,
            "API__WORKERS": "1",
            "API__SECRET_KEY": "a key of the tests alone",
            "API_AUTH__JWT_SECRET": "another key of the tests alone, which is long enough for any hash",
            "SCHEDULER__SCHEDULER_HEARTBEAT_SEC": "1",
            "SCHEDULER__SCHEDULER_HEALTH_CHECK_THRESHOLD": "10",
            "USAGE_DATA_COLLECTION__ENABLED": "False",
        }
        return clean_environment(
            {
                **{f"AIRFLOW__{name}": value for name, value in settings.items()},
                "PATH": f"{self._programs}{os.pathsep}{os.environ['PATH']}",
                "AIRFLOW_HOME": str(self.directory / "home"),
                "AIRFLOW_VAR_TAKEONE_CALLBACK_SECRET": callback_secret,
                "STEP_SECONDS": "0.1",
                "PYTHONDONTWRITEBYTECODE": "1",
                "SCARF_ANALYTICS": "false",
                "DO_NOT_TRACK": "true",
            }
        )

    def _process(self, name: str, *options: str, port: int | None = None) -> Process:
        return Process(
            name,
            [str(self._programs / "airflow"), name, *options],
            environment=self._environment,
            log_path=self.directory / f"{name}.log",
            port=port,
        )

    def start(self) -> None:
        """Start everything, and wait until the DAG is loaded."""
        self.database.start()
        self.database.create("airflow")
        self._migrate()
        self.dag_processor.start()
        self.scheduler.start()
        self.start_server()
        self.dag_processor.wait_until(self.dag, START_SECONDS, "the DAG was read")
        self.scheduler.wait_until(self.schedules, START_SECONDS, "the scheduler works")

    def start_server(self, **settings: str) -> None:
        """Start the API server with additional `settings`, and wait until it serves."""
        self.api.environment = self._environment | settings
        self.api.start()
        self.api.wait_until(self.is_up, START_SECONDS, "the API serves")

    def kill_server(self) -> None:
        """Kill the API server, but not the scheduler and the tasks."""
        self.api.kill()

    def start_scheduler(self) -> None:
        """Start the scheduler, and wait until it counts as alive."""
        self.scheduler.start()
        self.scheduler.wait_until(self.schedules, START_SECONDS, "the scheduler works")

    def stop(self) -> None:
        """Stop everything, the database last."""
        stop_all([self.scheduler, self.dag_processor, self.api], 20)
        self.database.terminate()

    def is_up(self) -> bool:
        """Whether the API answers a sign-in, whose token `call` uses."""
        user, _, password = CREDENTIALS.partition(":")
        with suppress(requests.RequestException):
            answer = requests.post(
                f"{self.url}/auth/token", json={"username": user, "password": password}, timeout=20
            )
            if answer.ok:
                self.token = answer.json()["access_token"]
            return answer.ok
        return False

    def call(self, method: str, path: str, json: object = None) -> dict[str, Any]:
        """The API's answer; empty unless it is a success."""
        headers = {"Authorization": f"Bearer {self.token}"}
        with suppress(requests.RequestException):
            answer = requests.request(
                method, f"{self.url}/api/v2{path}", json=json, headers=headers, timeout=20
            )
            return answer.json() if answer.ok else {}
        return {}

    def dag(self) -> dict[str, Any]:
        """The example's DAG; empty if there is none."""
        return self.call("GET", f"/dags/{WORKFLOW}")

    def schedules(self) -> bool:
        """Whether Airflow reports its scheduler as healthy."""
        health = self.call("GET", "/monitor/health")
        return bool(health.get("scheduler", {}).get("status") == "healthy")

    def is_start(self, request: Request) -> bool:
        """Whether a request creates a DAG run."""
        return request.method == "POST" and request.path.endswith("/dagRuns")

    def settings(self, url: str = "") -> dict[str, str]:
        """With its credentials."""
        return {**super().settings(url), "credentials": CREDENTIALS}

    def runs(self, dispatch_id: str) -> int:
        """0 or 1: Airflow cannot have two runs with one id."""
        return int(bool(self.call("GET", self._run(dispatch_id))))

    def kill_run(self, dispatch_id: str) -> None:
        """Mark it as failed, as an operator might."""
        assert self.call("PATCH", self._run(dispatch_id), {"state": "failed"})

    def _run(self, dispatch_id: str) -> str:
        return f"/dags/{WORKFLOW}/dagRuns/{dispatch_id}"

    def _migrate(self) -> None:
        with (self.directory / "migrate.log").open("w") as log:
            subprocess.run(
                [str(self._programs / "airflow"), "db", "migrate"],
                check=True,
                timeout=MIGRATE_SECONDS,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
