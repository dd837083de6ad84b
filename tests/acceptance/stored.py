"""Direct access to the store: to inspect records, and to cause states that the API does not allow."""

import json
from collections.abc import Callable
from typing import Any

from devstack.redis_server import RedisServer
from store import keys


def claim(redis: RedisServer, job_id: str) -> dict[str, Any] | None:
    """Return the job's claim as it is stored; None if there is none."""
    with redis.client() as client:
        raw = client.get(keys.claim(job_id))
    return json.loads(raw) if raw else None


def lose_claim(redis: RedisServer, job_id: str) -> None:
    """Delete the job's claim, which the service itself never does."""
    with redis.client() as client:
        assert client.delete(keys.claim(job_id)) == 1


def edit_job(redis: RedisServer, job_id: str, edit: Callable[[dict[str, Any]], Any]) -> None:
    """Change the stored job in place."""
    with redis.client() as client:
        job = json.loads(client.get(keys.job(job_id)))
        edit(job)
        client.set(keys.job(job_id), json.dumps(job))
