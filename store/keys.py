"""The names of all keys.

A job's keys share its id as hash tag, as Redis Cluster needs for keys that one script touches. Scripts also
touch lists, indexes and queues, which need one Redis.
"""

from functools import lru_cache
from hashlib import sha256

from redis import Redis

PREFIX = "takeone:"

DUE = f"{PREFIX}claims:in-flight"
UNKNOWN = f"{PREFIX}claims:unknown"
IN_FLIGHT = f"{PREFIX}claims:open"
SILENT = f"{PREFIX}jobs:silent"
SWEEP_LOCK = f"{PREFIX}sweep:lock"
LIMITS = f"{PREFIX}limits"
PAUSE = f"{PREFIX}pause"
LAST_PAUSE = f"{PREFIX}pause:last"
# All lists of jobs, as a pattern.
JOB_LISTS = f"{PREFIX}*:jobs-by-*"


def changes_channel(client: Redis) -> str:
    """Where changes are published. Pub/sub ignores database numbers, so the name has the client's."""
    return f"{PREFIX}{client.get_connection_kwargs().get('db') or 0}:changes"


def job(job_id: str) -> str:
    """The job, as JSON."""
    return f"{PREFIX}{{{job_id}}}:job"


def claim(job_id: str) -> str:
    """The job's claim, as JSON."""
    return f"{PREFIX}{{{job_id}}}:claim"


def trail(job_id: str) -> str:
    """The job's audit trail: a list, oldest first."""
    return f"{PREFIX}{{{job_id}}}:trail"


def callbacks(job_id: str) -> str:
    """The applied callbacks: a hash of event_id to the payload's digest and the dispatch."""
    return f"{PREFIX}{{{job_id}}}:callbacks"


def jobs_in(status: str) -> str:
    """The jobs in a state, by when they entered it: a list of `store/lists.py`."""
    return f"{PREFIX}{status}:jobs-by-change"


def made(record_id: str) -> str:
    """Exists once a job or project was created with an idempotency key, for at least as long as the key."""
    return f"{PREFIX}{{{record_id}}}:made"


def idempotency_key(user: str, digest: str) -> str:
    """The id, and the digest of the body, that a user's idempotency key was first used for."""
    return f"{_user(user)}:idempotency:{digest}"


def project(project_id: str) -> str:
    """A project, as JSON."""
    return f"{PREFIX}{{{project_id}}}:project"


def project_jobs(project_id: str) -> str:
    """The jobs of a project by creation: a list of `store/lists.py`, as are the next three."""
    return f"{PREFIX}{{{project_id}}}:jobs-by-creation"


def user_jobs(user: str) -> str:
    """The jobs of a user by creation."""
    return f"{_user(user)}:jobs-by-creation"


def user_changes(user: str) -> str:
    """The jobs of a user by their last change."""
    return f"{_user(user)}:jobs-by-change"


def user_projects(user: str) -> str:
    """The projects of a user by creation."""
    return f"{_user(user)}:projects-by-creation"


def erasure(user: str | None, project_id: str | None = None) -> str:
    """Exists while a user or a project is being erased: nothing is created for them, or in it, meanwhile."""
    erased = f"{PREFIX}{{{project_id}}}" if user is None else _user(user)
    return f"{erased}:being-erased"


@lru_cache(1_000)  # a page of a list names its owner with each job
def _user(user: str) -> str:
    # A digest: a user's name is free text.
    return f"{PREFIX}user:{{{sha256(user.encode()).hexdigest()[:32]}}}"
