"""The application factory."""

from flask import Flask

from api.auth import Authenticator
from api.browser_policy import secure
from api.errors import register_error_handlers
from api.request_log import log_requests
from api.requests import drain_body
from api.responses import JsonProvider
from api.routes import callbacks, health, jobs, metrics, operations, pages, projects
from observability import tracing
from observability.logs import configure_logging
from services.assembly import Services
from settings import load_settings, or_exit
from tasks.outbox import make_outbox


def create_app() -> Flask:
    """Make the WSGI application. Connects to nothing; exits if the settings are incomplete or unsafe."""
    settings = or_exit(load_settings)
    configure_logging(settings)
    app = Flask("takeone", static_folder=None)
    app.json = JsonProvider(app)
    # A path with `//` is unknown: merging would answer with a redirect in HTML.
    app.url_map.merge_slashes = False
    app.config["MAX_CONTENT_LENGTH"] = settings.max_body_bytes
    app.config["PROPAGATE_EXCEPTIONS"] = False
    # Automatic answers are outside the contract; `secure` answers CORS preflights.
    app.config["PROVIDE_AUTOMATIC_OPTIONS"] = False
    app.extensions["takeone"] = Services(settings, make_outbox(settings))
    app.extensions["authenticator"] = Authenticator(settings)
    log_requests(app)
    tracing.start(settings, "web")
    app.after_request(drain_body)
    secure(app, settings)
    for routes in (projects, jobs, operations, callbacks, health, metrics, pages):
        app.register_blueprint(routes.blueprint)
    register_error_handlers(app)
    return app
