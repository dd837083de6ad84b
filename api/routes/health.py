"""Liveness and readiness."""

from flask import Blueprint

from api.context import services
from api.requests import refuse_input
from api.responses import Shape
from domain.errors import ServiceUnavailable
from store import redis_checks
from store.errors import StoreUnavailable
from tasks.queues import broker_answers

blueprint = Blueprint("health", __name__)


@blueprint.get("/healthz")
def get_health() -> Shape:
    """Answer as long as the process is up."""
    refuse_input()
    return {"status": "ok"}


@blueprint.get("/readyz")
def get_readiness() -> Shape:
    """Check that store and broker answer, and that the store loses nothing. Raises `ServiceUnavailable`."""
    refuse_input()
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
    return {"status": "ok"}
