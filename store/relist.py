"""Lists every record where it belongs: for records of a release whose lists were others."""

from collections import Counter

import structlog
from redis import Redis

from store import keys
from store.client import redis_errors, scanned
from store.errors import RecordUnreadable
from store.jobs import JobStore
from store.projects import ProjectStore

log = structlog.get_logger("store")


def relist(client: Redis, projects: ProjectStore, jobs: JobStore) -> Counter[str]:
    """List all projects and jobs, and take the earlier release's lists away; how many there are of each kind.

    The kinds: project, job, unreadable. It reads the whole keyspace, a batch at a time, so that the store goes
    on serving. Each record is listed only as it stands at that moment, so any process may change it meanwhile.
    Raises `StoreUnavailable`, and may then be called again.
    """
    done: Counter[str] = Counter()
    for kind, act in (("project", projects.relist), ("job", jobs.relist)):
        for batch in scanned(client, f"{keys.PREFIX}{{*}}:{kind}"):
            for name in batch:
                record_id = name[name.index("{") + 1 : name.index("}")]
                try:
                    act(record_id)
                    done[kind] += 1
                except RecordUnreadable:
                    log.error("record.unreadable", **{f"{kind}_id": record_id})
                    done["unreadable"] += 1
    for pattern in keys.OLD_LISTS:
        for batch in scanned(client, pattern):
            if batch:
                with redis_errors("UNLINK"):
                    client.unlink(*batch)
    return done
