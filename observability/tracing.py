"""Traces by OpenTelemetry: off, and not even imported, unless TAKEONE_OTEL is set.

The packages that trace Flask, Celery, requests and redis by themselves see little here: our message is
written into Redis by a script; and what they do see they describe by URLs and arguments. So the spans are
made here (spec/decisions/0011). They carry ids that the service made itself, routes, outcomes and counts,
and nothing that a caller wrote.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import TYPE_CHECKING, Any

from structlog.contextvars import get_contextvars

from settings import Settings

if TYPE_CHECKING:
    from flask import Flask, Response

TRACEPARENT = "traceparent"
#: Routes that machines call all the time: neither traced nor logged.
QUIET_ROUTES = frozenset({"/healthz", "/readyz", "/metrics"})
_tracer: Any = None
_api: Any = None  # opentelemetry.trace, and the header's reader and writer: both with the tracer
_propagator: Any = None


def start(settings: Settings, process: str) -> None:
    """Trace this process from now on, if the settings say so. Where spans go is said by OTEL_ variables."""
    global _tracer, _api, _propagator
    if not settings.otel or _tracer is not None:
        return
    from opentelemetry import trace
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    name = os.environ.get("OTEL_SERVICE_NAME", f"takeone-{process}")
    provider = TracerProvider(resource=Resource.create({"service.name": name}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    _api, _propagator = trace, TraceContextTextMapPropagator()
    _tracer = provider.get_tracer("takeone")


@contextmanager
def span(
    name: str,
    kind: str = "INTERNAL",
    parent: str | None = None,
    attributes: Mapping[str, Any] | None = None,
) -> Iterator[None]:
    """A span around a piece of work; nothing, if tracing is off.

    `kind` is OpenTelemetry's word for it, `parent` a traceparent header. An exception that passes is
    noted by its type: its text may quote anything.
    """
    if _tracer is None:
        yield
        return
    context = _propagator.extract({TRACEPARENT: parent}) if parent else None
    with _tracer.start_as_current_span(
        name,
        context,
        _api.SpanKind[kind],
        attributes,
        record_exception=False,
        set_status_on_exception=False,
    ) as current:
        try:
            yield
        except Exception as error:
            current.set_status(_api.StatusCode.ERROR, type(error).__name__)
            raise


def store_span(operation: str) -> AbstractContextManager[Any]:
    """A span around one round trip to the store, named by its commands; nothing outside of a trace."""
    if _tracer is None or not _api.get_current_span().is_recording():
        return nullcontext()
    return span(
        "redis", "CLIENT", attributes={"db.system.name": "redis", "db.operation.name": operation}
    )


def headers() -> dict[str, str]:
    """The headers that let another process go on with the current trace; none if tracing is off.

    Only `traceparent`: `tracestate` and `baggage` are text that a caller wrote.
    """
    if _tracer is None:
        return {}
    carrier: dict[str, str] = {}
    _propagator.inject(carrier)
    return {name: value for name, value in carrier.items() if name == TRACEPARENT}


def note(attributes: Mapping[str, Any]) -> None:
    """Add to the current span; nothing, if tracing is off."""
    if _tracer is not None:
        with suppress(Exception):  # what merely reports stops no work
            _api.get_current_span().set_attributes(attributes)


def trace_requests(app: "Flask") -> None:
    """Put a span around every request of `app`, if tracing is on."""
    if _tracer is None:
        return
    from flask import g, request

    def begin() -> None:
        route = request.url_rule.rule if request.url_rule else "unmatched"
        if route not in QUIET_ROUTES:
            method = request.method if request.url_rule else "HTTP"
            facts = {"http.request.method": method, "http.route": route}
            g.span = span(f"{method} {route}", "SERVER", request.headers.get(TRACEPARENT), facts)
            g.span.__enter__()

    def conclude(response: "Response") -> "Response":
        if "span" in g:
            bound = {f"takeone.{name}": value for name, value in get_contextvars().items()}
            bound.pop("takeone.request", None)
            note({"http.response.status_code": response.status_code, **bound})
        return response

    def end(error: BaseException | None) -> None:
        if "span" in g:
            kind = type(error) if error else None
            g.pop("span").__exit__(kind, error, error.__traceback__ if error else None)

    app.before_request(begin)
    app.after_request(conclude)
    app.teardown_request(end)
