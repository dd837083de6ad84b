"""The worker's own /metrics, on a port of its own: workers share nothing that one could ask for all."""

from collections.abc import Iterator

import structlog
from prometheus_client import REGISTRY, start_http_server
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from tasks.breaker import CircuitBreaker

log = structlog.get_logger("tasks")


class BreakerCollector(Collector):
    """The circuit breaker's state."""

    def __init__(self, breaker: CircuitBreaker | None) -> None:
        self._breaker = breaker

    def describe(self) -> Iterator[GaugeMetricFamily]:
        """Its one metric."""
        return self.collect()

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Its one metric, with the state of this moment."""
        is_open = self._breaker is not None and self._breaker.is_open
        yield GaugeMetricFamily(
            "takeone_breaker_open", "Whether the circuit is open.", value=float(is_open)
        )


def serve_metrics(port: int, breaker: CircuitBreaker) -> None:
    """Serve this process's metrics, in a thread. A port that is taken stops no worker from working."""
    REGISTRY.register(BreakerCollector(breaker))
    try:
        start_http_server(port)
    except OSError as error:
        log.warning("metrics.not_served", error=type(error).__name__)
