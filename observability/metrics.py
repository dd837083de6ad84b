"""Every metric that a process counts for itself; what can be read from the store is in `store/overview.py`.

The web's processes write theirs to files that any of them can sum up (prometheus_client's multiprocess mode,
set up by `api/server.py`); a worker process has its own and serves it alone. No label is ever anything that
a caller wrote.
"""

from prometheus_client import Counter, Gauge, Histogram

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)

http_requests = Counter(
    "takeone_http_requests", "Requests, by the route's template.", ["route", "method", "code"]
)
http_request_seconds = Histogram(
    "takeone_http_request_seconds",
    "From a request's arrival to its answer.",
    ["route", "method"],
    buckets=_SECONDS,
)
runs = Counter(
    "takeone_runs",
    "Calls of run and retry: started, joined, replayed, or the code they were refused with.",
    ["kind", "outcome"],
)
callers_waiting = Gauge(
    "takeone_callers_waiting",
    "Callers who wait for an outcome or a change right now.",
    multiprocess_mode="livesum",
)
callbacks = Counter(
    "takeone_callbacks",
    "Status callbacks: applied, replayed, or the code they were refused with.",
    ["answer"],
)
superseded_executions = Counter(
    "takeone_superseded_executions",
    "Callbacks of an execution that came second: it was told to stop.",
)
dispatch_seconds = Histogram(
    "takeone_dispatch_seconds",
    "From the intent to post to the outcome's record.",
    ["outcome"],
    buckets=_SECONDS,
)
asks = Counter("takeone_asks", "Questions to the orchestrator, by what it said.", ["answer"])
unreadable_records = Counter(
    "takeone_unreadable_records", "Times that a stored record was met which cannot be read."
)
messages_discarded = Counter(
    "takeone_messages_discarded", "Queue messages that were none of ours, and were dropped."
)
messages_put_aside = Counter(
    "takeone_messages_put_aside",
    "Queue messages of a later release, kept until a worker can read them.",
)
log_lines_dropped = Counter(
    "takeone_log_lines_dropped", "Log lines that could not be written and were dropped."
)
sweeps = Counter("takeone_sweeps", "Sweeps of this worker: done or failed.", ["result"])
swept_claims = Counter("takeone_swept_claims", "Claims that the sweep looked after.", ["result"])
breaker_open = Gauge("takeone_breaker_open", "Whether the circuit to the orchestrator is open.")
