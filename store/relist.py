"""Lists every record where it belongs: for records of a release whose lists were others."""

from collections import Counter
from collections.abc import Iterator

import structlog
from redis import Redis

from store import keys
from store.client import redis_errors
from store.errors import RecordUnreadable
from store.jobs import JobStore
from store.projects import ProjectStore

log = structlog.get_logger("store")

_BATCH = 1_000


def relist(client: Redis, projects: ProjectStore, jobs: JobStore) -> Counter[str]:
    """List all projects and jobs, and take the earlier release's lists away; how many there are of each kind.

    The kinds: project, job, unreadable. It reads the whole keyspace, a batch at a time, so that the store goes
    on serving. Each record is listed only as it stands at that moment, so any process may change it meanwhile.
    Raises `StoreUnavailable`, and may then be called again.
    """
    done: Counter[str] = Counter()
    for kind, act in (("project", projects.relist), ("job", jobs.relist)):
        for name in _names(client, f"{keys.PREFIX}{{*}}:{kind}"):
            record_id = name[name.index("{") + 1 : name.index("}")]
            try:
                act(record_id)
                done[kind] += 1
            except RecordUnreadable:
                log.error("record.unreadable", **{f"{kind}_id": record_id})
                done["unreadable"] += 1
    for pattern in keys.OLD_LISTS:
        for name in _names(client, pattern):
            with redis_errors("UNLINK"):
                client.unlink(name)
    return done


def _names(client: Redis, pattern: str) -> Iterator[str]:
    with redis_errors("SCAN"):
        for name in client.scan_iter(pattern, _BATCH):
            yield name.decode()
