"""Every metric that a process counts for itself; what can be read from the store is in `store/overview.py`.

The web's processes write theirs to files that any of them can sum up (prometheus_client's multiprocess
mode, set up by gunicorn.conf.py); a worker process has its own and serves it alone. No label is ever
anything that a caller wrote.
"""

from typing import Generic, TypeVar

from prometheus_client import Counter, Gauge, Histogram

Metric = TypeVar("Metric", Counter, Histogram)

_WAITS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Labelled(dict[tuple[str, ...], Metric], Generic[Metric]):
    """A metric's children by their labels' values, each made once: finding one costs a dict's look-up."""

    def __init__(self, metric: Metric, names: tuple[str, ...]) -> None:
        super().__init__()
        self.names = names
        self._metric: Metric = metric

    def __missing__(self, values: tuple[str, ...]) -> Metric:
        child: Metric = self._metric.labels(*values)
        self[values] = child
        return child


def _counter(name: str, help_text: str, *labels: str) -> Labelled[Counter]:
    return Labelled(Counter(f"takeone_{name}", help_text, labels), labels)


def _histogram(name: str, help_text: str, *labels: str) -> Labelled[Histogram]:
    return Labelled(Histogram(f"takeone_{name}", help_text, labels, buckets=_WAITS), labels)


http_requests = _counter(
    "http_requests", "Requests, by the route's template.", "route", "method", "code"
)
http_request_seconds = _histogram(
    "http_request_seconds", "From a request's arrival to its answer.", "route", "method"
)
runs = _counter(
    "runs",
    "Calls of run and retry: first, joined, replayed, or the code they were refused with.",
    "kind",
    "outcome",
)
callers_waiting = Gauge(
    "takeone_callers_waiting",
    "Callers who wait for an outcome or a change right now.",
    multiprocess_mode="livesum",
)
callbacks = _counter(
    "callbacks",
    "Status callbacks: applied, replayed, or the code they were refused with.",
    "answer",
)
superseded_executions = Counter(
    "takeone_superseded_executions",
    "Callbacks of an execution that came second: it was told to stop.",
)
dispatch_seconds = _histogram(
    "dispatch_seconds", "From the intent to post to the outcome's record.", "outcome"
)
sweeps = _counter("sweeps", "Sweeps of this worker: done or failed.", "result")
swept_claims = _counter("swept_claims", "Claims that the sweep looked after.", "result")
