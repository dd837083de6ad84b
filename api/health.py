"""Whether the process is up, and whether it can serve."""

from flask import Response

from api.context import services
from api.errors import error_response, json_response
from api.http import Blueprint
from api.schemas import ErrorSchema, HealthSchema
from store import health
from store.errors import StoreUnavailable
from tasks.broker import broker_answers

blueprint = Blueprint("health", __name__, description="For load balancers and supervisors.")


@blueprint.route("/healthz", methods=["GET"])
@blueprint.doc(security=[])
@blueprint.response(200, HealthSchema)
def get_health() -> Response:
    """Say that the process is up"""
    return json_response({"status": "ok"})


@blueprint.route("/readyz", methods=["GET"])
@blueprint.doc(security=[])
@blueprint.response(200, HealthSchema)
@blueprint.alt_response(503, schema=ErrorSchema)
def get_readiness() -> Response:
    """Say whether it can serve: the store and the broker answer, and the store keeps what it is told"""
    problems = _problems()
    if not problems:
        return json_response({"status": "ok"})
    response = error_response(503, "SERVICE_UNAVAILABLE", "Not ready: " + "; ".join(problems) + ".")
    response.headers["Retry-After"] = "1"
    return response


def _problems() -> list[str]:
    settings = services().settings
    try:
        problems = health.problems(services().link, production=settings.production)
    except StoreUnavailable:
        return ["the store does not answer"]
    if not settings.broker_is_store and not broker_answers(settings):
        problems.append("the broker does not answer")
    return problems
