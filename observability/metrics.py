"""The metrics that each process counts itself; what is read from the store is in `store/overview.py`.

Web processes write theirs to files, so that any of them can serve the sum (prometheus_client's multiprocess
mode, set up by `api/server.py`); a worker process serves its own. No label holds text from a caller.
"""

from prometheus_client import Counter, Gauge, Histogram

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)

http_requests = Counter(
    "takeone_http_requests", "Requests, by route template.", ["route", "method", "code"]
)
http_request_seconds = Histogram(
    "takeone_http_request_seconds",
    "From the arrival of a request to its answer.",
    ["route", "method"],
    buckets=_SECONDS,
)
runs = Counter(
    "takeone_runs",
    "Calls of run and retry: started, joined, replayed, or the error code.",
    ["kind", "outcome"],
)
callers_waiting = Gauge(
    "takeone_callers_waiting",
    "Callers that are waiting for an outcome or a change.",
    multiprocess_mode="livesum",
)
callbacks = Counter(
    "takeone_callbacks", "Status callbacks: applied, replayed, or the error code.", ["answer"]
)
superseded_executions = Counter(
    "takeone_superseded_executions", "Callbacks of a second execution, which was told to stop."
)
dispatch_seconds = Histogram(
    "takeone_dispatch_seconds",
    "From the intent to post to the record of the outcome.",
    ["outcome"],
    buckets=_SECONDS,
)
asks = Counter("takeone_asks", "Questions to the orchestrator, by answer.", ["answer"])
unreadable_records = Counter("takeone_unreadable_records", "Reads of undecodable records.")
messages_discarded = Counter("takeone_messages_discarded", "Foreign queue messages, dropped.")
log_lines_dropped = Counter("takeone_log_lines_dropped", "Log lines that could not be written.")
sweeps = Counter("takeone_sweeps", "Sweeps of this worker: done or failed.", ["result"])
swept_claims = Counter("takeone_swept_claims", "Claims handled by sweeps.", ["result"])
breaker_open = Gauge("takeone_breaker_open", "Whether the circuit to the orchestrator is open.")
