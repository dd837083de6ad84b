"""The names of all keys. A job's keys share its id as hash tag, so that one script may touch them all
on a Redis Cluster too; nothing else is ever touched together with them, but the broker's queue where
the broker is the same (and then not clustered) Redis."""

from hashlib import sha256

PREFIX = "takeone:"

IN_FLIGHT = f"{PREFIX}claims:in-flight"
UNKNOWN = f"{PREFIX}claims:unknown"
SWEEP_LOCK = f"{PREFIX}sweep:lock"
CHANGES_CHANNEL = f"{PREFIX}changes"
LIMITS = f"{PREFIX}limits"


def job(job_id: str) -> str:
    """The job, as JSON."""
    return f"{PREFIX}{{{job_id}}}:job"


def claim(job_id: str) -> str:
    """The job's claim, as JSON; set with NX, without a TTL."""
    return f"{PREFIX}{{{job_id}}}:claim"


def trail(job_id: str) -> str:
    """The job's audit trail: a list, oldest first."""
    return f"{PREFIX}{{{job_id}}}:trail"


def callbacks(job_id: str) -> str:
    """The callbacks that were applied: a hash of event_id to the payload's digest."""
    return f"{PREFIX}{{{job_id}}}:callbacks"


def project(project_id: str) -> str:
    """A project, as JSON."""
    return f"{PREFIX}{{{project_id}}}:project"


def project_jobs(project_id: str) -> str:
    """The ids of a project's jobs: a list, oldest first. It only ever grows."""
    return f"{PREFIX}{{{project_id}}}:jobs"


def user_projects(user: str) -> str:
    """The ids of a user's projects: a list, oldest first. The name is a digest: users are free text."""
    return f"{PREFIX}user:{{{sha256(user.encode()).hexdigest()[:32]}}}:projects"
