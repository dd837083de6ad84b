"""HTTP: routes, schemas, auth and errors. Thin: who, what, answer."""

from api.app import create_app

__all__ = ["create_app"]
