"""The service and the bare program, both running, to be measured in turn."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.rounds import first_runs
from bench.stub import Stub
from bench.systems import Baseline, Service

WARM_UP_SECONDS = 1.0


@dataclass(frozen=True)
class Comparison:
    """What the parts about runs and reads measure."""

    directory: Path
    stub: Stub
    service: Service
    baseline: Baseline


@contextmanager
def comparison(directory: Path) -> Iterator[Comparison]:
    """Start and warm up all three."""
    with ExitStack() as running:
        stub = Stub(directory)
        running.callback(stub.terminate)
        stub.start()
        service = running.enter_context(Service("service", directory / "service", stub))
        baseline = running.enter_context(Baseline(directory / "bare", stub))
        for system in (service, baseline):
            first_runs(system, stub, 16, WARM_UP_SECONDS)
        yield Comparison(directory, stub, service, baseline)
