"""The use cases that routes call, and the authenticated caller."""

from typing import cast

from flask import current_app, g, request

from api.auth import Authenticator, Principal
from domain.errors import Forbidden, ResourceNotFound
from services.assembly import Services


def services() -> Services:
    """The use cases of the application that serves this request."""
    return cast(Services, current_app.extensions["takeone"])


def authenticate() -> None:
    """Authenticate the caller, before anything else is checked. Raises as `Authenticator.principal` does."""
    authenticator: Authenticator = current_app.extensions["authenticator"]
    g.principal = authenticator.principal(request.headers.get("Authorization"))


def principal() -> Principal:
    """The caller. Only in routes behind `authenticate`."""
    return cast(Principal, g.principal)


def editor() -> str:
    """The calling user. Without the editor role, raises `ResourceNotFound` where the path names a resource,
    else `Forbidden`."""
    if not principal().is_editor:
        raise ResourceNotFound if request.view_args else Forbidden("The editor role is required.")
    return principal().user
