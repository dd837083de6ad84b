"""/metrics for Prometheus: what the web's processes counted, and what the store knows right now."""

import os
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import TypeVar

from flask import Flask, Response
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

import metrics
from api.context import Services
from api.dispatching import Dispatched
from domain.dispatching import Role
from domain.errors import ServiceUnavailable, TakeOneError
from settings import Settings
from store.errors import StoreError, StoreUnavailable
from store.link import Link
from store.overview import Overview, overview
from tasks.broker import lanes, queue_keys

Answer = TypeVar("Answer")

_RUN_OUTCOMES = {Role.FIRST: "first", Role.JOINER: "joined", Role.REPLAY: "replayed"}


def register_metrics(app: Flask, services: Services) -> None:
    """Serve /metrics. It asks for no token: there is nothing in it but numbers."""
    store = StoreCollector(services.link, services.settings, services.now)

    @app.get("/metrics")
    def show_metrics() -> Response:
        return Response(generate_latest(_registry(store)), content_type=CONTENT_TYPE_LATEST)


def _registry(store: Collector) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(store)
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    else:
        registry.register(REGISTRY)
    return registry


class StoreCollector(Collector):
    """Claims and queues, read when they are asked for. A store that is away is a metric, not a failure.

    Every web process of a deployment shows the same: take the greatest, not the sum.
    """

    def __init__(self, link: Link, settings: Settings, now: Callable[[], datetime]) -> None:
        self._link, self._now = link, now
        # Another broker's queues are for its own exporter.
        self._lanes: Sequence[str] = lanes(settings) if settings.broker_is_store else []

    def describe(self) -> Iterator[GaugeMetricFamily]:
        """What `collect` may yield, without a look at the store."""
        yield from _families(Overview(0, {}, 0, 0, []), [])
        yield _store_up(True)

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Ask the store; takes a few of its timeouts at the most."""
        queues = queue_keys(self._lanes)
        try:
            seen = overview(self._link, queues, self._now())
        except StoreUnavailable:
            yield _store_up(False)
            return
        yield _store_up(True)
        yield from _families(seen, self._lanes)


def _store_up(up: bool) -> GaugeMetricFamily:
    return GaugeMetricFamily("takeone_store_up", "Whether the store answers.", value=float(up))


def _families(seen: Overview, all_lanes: Sequence[str]) -> Iterator[GaugeMetricFamily]:
    claims = GaugeMetricFamily("takeone_claims", "Claims whose outcome is open.", labels=["phase"])
    for phase, count in seen.phases.items():
        claims.add_metric([phase.value], count)
    yield claims
    queue = GaugeMetricFamily("takeone_queue_length", "Messages that wait.", labels=["lane"])
    for lane, length in zip(all_lanes, seen.queue_lengths, strict=True):
        queue.add_metric([lane], length)
    yield queue
    for name, help_text, value in (
        ("claims_in_flight", "Entries of the index that the sweep works through.", seen.in_flight),
        (
            "oldest_claim_age_seconds",
            "Since the oldest open claim was made.",
            seen.oldest_claim_age,
        ),
        (
            "oldest_unknown_age_seconds",
            "Since the post whose outcome is unknown for longest.",
            seen.oldest_unknown_age,
        ),
    ):
        yield GaugeMetricFamily(f"takeone_{name}", help_text, value=value)


def counted(kind: str, dispatch: Callable[[], Dispatched]) -> Dispatched:
    """Run or retry (`kind`), and count what came of it for the caller."""
    told = _refusals_counted(dispatch, lambda code: metrics.runs[kind, code].inc())
    metrics.runs[kind, _RUN_OUTCOMES[told.role]].inc()
    return told


def counted_callback(apply: Callable[[], Answer]) -> Answer:
    """Apply a callback, and count it if it is refused; the caller counts the rest."""
    return _refusals_counted(apply, lambda code: metrics.callbacks[code,].inc())


def _refusals_counted(act: Callable[[], Answer], count: Callable[[str], None]) -> Answer:
    try:
        return act()
    except TakeOneError as error:
        count(error.code)
        raise
    except StoreError:
        count(ServiceUnavailable.code)
        raise
