"""Whether the process is up, and whether it can serve."""

from flask import Blueprint, Response

from api.context import services
from api.requests import refuse_query_and_body
from api.responses import json_response
from domain.errors import ServiceUnavailable
from store import redis_checks
from store.errors import StoreUnavailable
from tasks.queues import broker_answers

blueprint = Blueprint("health", __name__)


@blueprint.get("/healthz")
def get_health() -> Response:
    """Say that the process is up."""
    refuse_query_and_body()
    return json_response({"status": "ok"})


@blueprint.get("/readyz")
def get_readiness() -> Response:
    """Say whether it can serve: store and broker answer, and the store keeps what it is told."""
    refuse_query_and_body()
    settings = services().settings
    try:
        problems = redis_checks.problems(services().redis, production=settings.production)
        if not settings.broker_is_store and not broker_answers(settings):
            problems.append("the broker does not answer")
    except StoreUnavailable:
        problems = ["the store does not answer"]
    if problems:
        not_ready = ServiceUnavailable()
        not_ready.message = f"Not ready: {'; '.join(problems)}."
        raise not_ready
    return json_response({"status": "ok"})
