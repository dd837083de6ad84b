"""/metrics for Prometheus: the counts of all web processes, and gauges that are read from the store."""

import os
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flask import Blueprint, Response
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics import Counter
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.registry import Collector

from api.context import services
from domain.errors import ServiceUnavailable, TakeOneError
from services.assembly import Services
from store.errors import StoreError, StoreUnavailable
from store.overview import Overview, overview
from tasks.queues import queue_keys, queue_names

blueprint = Blueprint("metrics", __name__)


@blueprint.get("/metrics")
def get_metrics() -> Response:
    """Show all metrics. No token is needed: they are only numbers."""
    registry = CollectorRegistry()
    registry.register(StoreCollector(services()))
    try:
        if directory := os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
            _drop_dead_processes(Path(directory))
            MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        else:
            registry.register(REGISTRY)
        return Response(generate_latest(registry), content_type=CONTENT_TYPE_LATEST)
    except (FileNotFoundError, struct.error):
        # Another scrape has just removed a dead process's file, or a process is just creating its own.
        raise ServiceUnavailable from None


def _drop_dead_processes(directory: Path) -> None:
    """Remove the live gauges of processes that have ended; their counters stay."""
    for file in directory.glob("gauge_live*_*.db"):
        pid = int(file.stem.rpartition("_")[2])
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            mark_process_dead(pid)  # type: ignore[no-untyped-call]
        except PermissionError:
            pass


class StoreCollector(Collector):
    """Gauges of claims and queues, read from the store at each scrape; `store_up` is 0 if it does not answer.

    Every web process of a deployment shows the same values: take their maximum, not their sum.
    """

    def __init__(self, services: Services) -> None:
        self._services = services

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Read the store. Takes a few of its timeouts at most."""
        try:
            seen, queue_lengths = seen_with_queues(self._services)
        except StoreUnavailable:
            yield _gauge("store_up", "Whether the store answers.", 0)
            return
        yield _gauge("store_up", "Whether the store answers.", 1)
        yield _gauges("claims", "Claims with an open outcome.", "phase", seen.phases)
        yield _gauges("queue_length", "Messages that wait.", "queue", queue_lengths)
        for name, help_text, value in (
            ("claims_in_flight", "Claims with an open outcome, of any age.", seen.in_flight),
            ("silent_jobs", "Jobs whose next callback is overdue.", seen.silent),
            ("paused", "Whether an operator has paused dispatching.", seen.paused),
            ("oldest_claim_age_seconds", "Age of the oldest open claim.", seen.oldest_claim_age),
            ("oldest_unknown_age_seconds", "Since the oldest post whose outcome is unknown.",
             seen.oldest_unknown_age),
        ):  # fmt: skip
            yield _gauge(name, help_text, value)


def seen_with_queues(services: Services) -> tuple[Overview, dict[str, int]]:
    """The overview, and the length of each queue: of none if the broker is not the store.

    Raises `StoreUnavailable`.
    """
    settings = services.settings
    names = queue_names(settings) if settings.broker_is_store else []
    seen = overview(services.redis, queue_keys(names), services.now(), services.policy)
    return seen, dict(zip(names, seen.queue_lengths, strict=True))


def _gauge(name: str, help_text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"takeone_{name}", help_text, value=value)


def _gauges(
    name: str, help_text: str, label: str, values: Mapping[Any, float]
) -> GaugeMetricFamily:
    family = GaugeMetricFamily(f"takeone_{name}", help_text, labels=[label])
    for labelled, value in values.items():
        family.add_metric([str(labelled)], value)
    return family


@contextmanager
def count_refusals(counter: Counter, *labels: str) -> Iterator[None]:
    """Count in `counter`, by error code, the errors that are raised inside."""
    try:
        yield
    except (TakeOneError, StoreError) as error:
        code = error.code if isinstance(error, TakeOneError) else ServiceUnavailable.code
        counter.labels(*labels, code).inc()
        raise
