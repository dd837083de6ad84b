"""What a request needs of its process: made once, by the factory, and found through the application."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, cast

from flask import current_app

from api.auth import Authenticator
from api.dispatching import DispatchService
from runtime import utc_now
from settings import Settings
from signatures import Signer
from store.changes import ChangeFeed
from store.connecting import connections
from store.jobs import JobStore
from store.link import Link
from store.projects import ProjectStore
from tasks.outbox import make_outbox

if TYPE_CHECKING:
    from store.run_limit import RunLimit


@dataclass(frozen=True, slots=True)
class Services:
    """The collaborators of the routes."""

    settings: Settings
    link: Link
    jobs: JobStore
    projects: ProjectStore
    feed: ChangeFeed
    dispatching: DispatchService
    authenticator: Authenticator
    signer: Signer
    run_limit: "RunLimit | None"
    now: Callable[[], datetime]


def make_services(settings: Settings, now: Callable[[], datetime] = utc_now) -> Services:
    """Put the collaborators together. Connects to nothing."""
    connect = connections(settings)
    link = Link(connect, settings.redis_connections, settings.redis_timeout_seconds)
    jobs = JobStore(link, make_outbox(settings))
    feed = ChangeFeed(connect)
    dispatching = DispatchService(jobs, feed, settings.policy, settings.web_waiters, now)
    return Services(
        settings=settings,
        link=link,
        jobs=jobs,
        projects=ProjectStore(link, jobs),
        feed=feed,
        dispatching=dispatching,
        authenticator=Authenticator(settings),
        signer=Signer(settings.signing_secrets),
        run_limit=_run_limit(settings, link),
        now=now,
    )


def _run_limit(settings: Settings, link: Link) -> "RunLimit | None":
    if not settings.run_limit:
        return None
    from store.run_limit import RunLimit  # only needed, and only imported, where there is a limit

    return RunLimit(settings.run_limit, link)


def services() -> Services:
    """The collaborators of the application that serves this request."""
    app = current_app._get_current_object()  # type: ignore[attr-defined]
    return cast(Services, app.extensions["takeone"])
