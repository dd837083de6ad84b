"""The names of all keys. A job's keys share its id as hash tag, so that one script may touch them all
on a Redis Cluster too. Touched together with them, where it is one Redis: the lists and indexes that name
the job, and the queue of a broker that is the same Redis."""

from hashlib import sha256

from redis import Redis

PREFIX = "takeone:"

DUE = f"{PREFIX}claims:in-flight"
UNKNOWN = f"{PREFIX}claims:unknown"
IN_FLIGHT = f"{PREFIX}claims:open"
SILENT = f"{PREFIX}jobs:silent"
SWEEP_LOCK = f"{PREFIX}sweep:lock"
LIMITS = f"{PREFIX}limits"
PUT_ASIDE = f"{PREFIX}messages:put-aside"
PAUSE = f"{PREFIX}pause"
LAST_PAUSE = f"{PREFIX}pause:last"


def changes_channel(client: Redis) -> str:
    """Where changes are notified. Pub/sub ignores database numbers, so the name holds the client's."""
    return f"{PREFIX}{client.get_connection_kwargs().get('db') or 0}:changes"


def job(job_id: str) -> str:
    """The job, as JSON."""
    return f"{PREFIX}{{{job_id}}}:job"


def claim(job_id: str) -> str:
    """The job's claim, as JSON; set with NX, and gone only with the job."""
    return f"{PREFIX}{{{job_id}}}:claim"


def trail(job_id: str) -> str:
    """The job's audit trail: a list, oldest first."""
    return f"{PREFIX}{{{job_id}}}:trail"


def callbacks(job_id: str) -> str:
    """The callbacks that were applied: a hash of event_id to the payload's digest."""
    return f"{PREFIX}{{{job_id}}}:callbacks"


def jobs_in(status: str) -> str:
    """The jobs in a state, by when they came into it. What is in it: `store/lists.py`."""
    return f"{PREFIX}{status}:jobs-by-change"


def made(record_id: str) -> str:
    """Says that the job or project was made by an idempotency key; outlives the record, as long as the key."""
    return f"{PREFIX}{{{record_id}}}:made"


def idempotency_key(user: str, digest: str) -> str:
    """The id and the digest of the body that a user's idempotency key stands for."""
    return f"{_user(user)}:idempotency:{digest}"


def project(project_id: str) -> str:
    """A project, as JSON."""
    return f"{PREFIX}{{{project_id}}}:project"


def project_jobs(project_id: str) -> str:
    """The jobs of a project by creation. What is in this and the next three: `store/lists.py`."""
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


def user_erasure(user: str) -> str:
    """There while a user is being erased: nothing is made for them meanwhile."""
    return f"{_user(user)}:being-erased"


def project_erasure(project_id: str) -> str:
    """There while a project is being erased: no job is made in it meanwhile."""
    return f"{PREFIX}{{{project_id}}}:being-erased"


def _user(user: str) -> str:
    # A digest: users are free text.
    return f"{PREFIX}user:{{{sha256(user.encode()).hexdigest()[:32]}}}"


# All lists of jobs, as a pattern.
JOB_LISTS = f"{PREFIX}*:jobs-by-*"
