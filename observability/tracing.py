"""OpenTelemetry traces: off, and OpenTelemetry not even imported, unless TAKEONE_OTEL is set.

The instrumentation packages for Flask, Celery, requests and redis see little here, because a script writes
our messages into Redis, and they record URLs and arguments. So the spans are made here
(spec/decisions/0011). They hold the service's own ids, routes, outcomes and counts, and no text from a caller.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import Any

from settings import Settings

TRACEPARENT = "traceparent"
#: Routes that monitoring calls all the time: neither traced nor logged.
QUIET_ROUTES = frozenset({"/healthz", "/readyz", "/metrics"})
# Set together: the tracer, the module opentelemetry.trace, and what reads and writes the header.
_tracer: Any = None
_api: Any = None
_propagator: Any = None


def start(settings: Settings, process: str) -> None:
    """Start tracing this process if the settings ask for it. OTEL_ variables say where spans are sent."""
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
    name: str, kind: str, attributes: Mapping[str, Any] | None = None, parent: str | None = None
) -> Iterator[None]:
    """A span around a block; nothing if tracing is off.

    `kind` is a name of OpenTelemetry's SpanKind, `parent` a traceparent header. Of an exception only the
    type is recorded, because its message may quote anything.
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
    """A span around one round trip to the store, named by its commands; nothing outside a trace."""
    if _tracer is None or not _api.get_current_span().is_recording():
        return nullcontext()
    return span("redis", "CLIENT", {"db.system.name": "redis", "db.operation.name": operation})


def headers() -> dict[str, str]:
    """The headers with which another process continues the current trace; none if tracing is off.

    Only `traceparent`: `tracestate` and `baggage` are text from a caller.
    """
    if _tracer is None:
        return {}
    carrier: dict[str, str] = {}
    _propagator.inject(carrier)
    return {name: value for name, value in carrier.items() if name == TRACEPARENT}


def note(attributes: Mapping[str, Any]) -> None:
    """Add attributes to the current span, except those that are None; does nothing if tracing is off."""
    if _tracer is not None:
        known = {name: value for name, value in attributes.items() if value is not None}
        with suppress(Exception):  # tracing must not fail the work
            _api.get_current_span().set_attributes(known)
