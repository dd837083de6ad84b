"""The service, the bare baseline and the trivial view, up together and measured in turn."""

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.rounds import first_runs
from bench.stub import Stub
from bench.systems import Baseline, Service
from demo.ports import free_port
from demo.processes import Process, clean_environment
from demo.stack import answers

TRIVIAL_KEY = "bench:trivial"
WARM_UP_SECONDS = 1.0


@dataclass(frozen=True)
class Arena:
    """Everything that the parts about runs and reads need."""

    stub: Stub
    service: Service
    baseline: Baseline
    trivial: Process


@contextmanager
def arena(directory: Path, auth: str) -> Iterator[Arena]:
    """Start everything, and warm it up."""
    with ExitStack() as running:
        stub = Stub(directory)
        running.callback(stub.terminate)
        stub.start()
        service = running.enter_context(Service("service", directory / "service", stub, auth=auth))
        baseline = running.enter_context(Baseline(directory / "bare", stub))
        trivial = _trivial(directory, service)
        running.callback(trivial.terminate)
        _start_trivial(trivial, service)
        for system in (service, baseline):
            first_runs(system, stub, 16, WARM_UP_SECONDS)
        yield Arena(stub, service, baseline, trivial)


def _trivial(directory: Path, service: Service) -> Process:
    port = free_port()
    environment = {**service.stack.settings, "PORT": str(port), "TRIVIAL_KEY": TRIVIAL_KEY}
    command = ["gunicorn", "--config", "gunicorn.conf.py", "bench.trivial:app"]
    return Process(
        "trivial",
        [sys.executable, "-m", *command],
        environment=clean_environment(environment),
        log_path=directory / "logs" / "trivial.log",
        port=port,
    )


def _start_trivial(trivial: Process, service: Service) -> None:
    service.redis.client().set(TRIVIAL_KEY, '{"status":"ok"}' + " " * 400)
    trivial.start()
    trivial.wait_until(lambda: answers(f"{trivial.url}/healthz"), 30, "it answers")
