"""The collaborators that routes use, and the authenticated caller."""

from dataclasses import dataclass
from typing import cast

from flask import current_app, g, request

from api.auth import Authenticator, Principal
from orchestrators.signatures import Signer
from services.assembly import Services


@dataclass(frozen=True, slots=True)
class Context:
    """The collaborators of one application."""

    services: Services
    authenticator: Authenticator
    signer: Signer


def context() -> Context:
    """Those of the application that serves this request."""
    return cast(Context, current_app.extensions["takeone"])


def services() -> Services:
    """The use cases."""
    return context().services


def authenticate() -> None:
    """Authenticate the caller, before anything else is checked. Raises as `Authenticator.principal` does."""
    g.principal = context().authenticator.principal(request.headers.get("Authorization"))


def principal() -> Principal:
    """The caller. Only in routes behind `authenticate`."""
    return cast(Principal, g.principal)
