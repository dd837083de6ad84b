"""What the routes need of their process, and who calls."""

from dataclasses import dataclass
from typing import cast

from flask import current_app, g, request

from api.auth import Authenticator, Principal
from orchestrators.signatures import Signer
from services.assembly import Services


@dataclass(frozen=True, slots=True)
class Context:
    """One per application: the use cases, and what checks callers."""

    services: Services
    authenticator: Authenticator
    signer: Signer


def context() -> Context:
    """The collaborators of the application that serves this request."""
    return cast(Context, current_app.extensions["takeone"])


def services() -> Services:
    """The use cases."""
    return context().services


def authenticate() -> None:
    """Find out who calls, before anything else is looked at. Raises `Unauthorized`."""
    g.principal = context().authenticator.principal(request.headers.get("Authorization"))


def principal() -> Principal:
    """Who calls. Only in routes behind `authenticate`."""
    return cast(Principal, g.principal)
