"""Gate, claim, task, POST, outcome, answer, and nothing else.

No auth, no schemas, no epochs, no trail, no logs, no recovery: a worker that dies leaves its job stuck
for ever. Its settings are the fastest found; `bench/README.md` says what was tried.

    gunicorn --worker-class gthread --threads 160 bench.baseline.app:web
    celery --app bench.baseline.app:queue worker --pool threads --concurrency 32
"""

import os
import threading

import redis
import requests
from celery import Celery
from flask import Flask
from kombu import Queue
from requests.adapters import HTTPAdapter

REDIS_URL = os.environ["BASELINE_REDIS_URL"]
ORCHESTRATOR_URL = os.environ["BASELINE_ORCHESTRATOR_URL"]
CALLBACK_URL = "http://127.0.0.1/api/v1/internal/jobs/{}/status"
THREADS = 160
WAIT_SECONDS = 10

store = redis.Redis.from_url(REDIS_URL, decode_responses=True, max_connections=THREADS + 2)
orchestrator = requests.Session()
orchestrator.trust_env = False
orchestrator.mount("http://", HTTPAdapter(pool_maxsize=THREADS))

queue = Celery("baseline", broker=REDIS_URL)
queue.conf.update(
    task_queues=[Queue("dispatch", no_ack=True)],
    task_default_queue="dispatch",
    task_ignore_result=True,
    task_publish_retry=False,
    worker_send_task_events=False,
    worker_enable_remote_control=False,
    worker_disable_prefetch=True,
    broker_pool_limit=8,
    broker_transport_options={"priority_steps": [0]},
    broker_connection_retry_on_startup=True,
)

web = Flask(__name__)
waiting: dict[str, threading.Event] = {}


@web.post("/jobs/<job_id>/run")
def run(job_id: str) -> tuple[dict[str, str], int]:
    """Start a job's workflow, once."""
    status, project_id, video_uri = store.hmget(
        f"job:{job_id}", "status", "project_id", "video_uri"
    )
    dispatch_id = f"run-{job_id}"
    if status == "AUDIO_EXTRACTING":
        return {"job_id": job_id, "status": status, "dispatch_id": dispatch_id}, 200
    if status != "UPLOADED" or not store.set(f"claim:{job_id}", dispatch_id, nx=True):
        return {"job_id": job_id, "status": str(status)}, 409
    settled = waiting[job_id] = threading.Event()
    dispatch.apply_async((job_id, project_id, video_uri), task_id=dispatch_id)
    answered = settled.wait(WAIT_SECONDS)
    del waiting[job_id]
    if not answered:
        return {"job_id": job_id, "status": status}, 502
    return {"job_id": job_id, "status": "AUDIO_EXTRACTING", "dispatch_id": dispatch_id}, 202


@queue.task
def dispatch(job_id: str, project_id: str, video_uri: str) -> None:
    """Post the dispatch, record that it was accepted, and wake the caller."""
    body = {
        "job_id": job_id,
        "project_id": project_id,
        "video_uri": video_uri,
        "callback_url": CALLBACK_URL.format(job_id),
    }
    headers = {"Idempotency-Key": f"run-{job_id}"}
    orchestrator.post(ORCHESTRATOR_URL, json=body, headers=headers, timeout=10).raise_for_status()
    with store.pipeline(transaction=False) as both:
        both.hset(f"job:{job_id}", "status", "AUDIO_EXTRACTING")
        both.publish("settled", job_id)
        both.execute()


def wake_callers() -> None:
    """Wake each caller whose job is settled, from one subscription for all."""
    subscription = store.pubsub(ignore_subscribe_messages=True)
    subscription.subscribe("settled")
    for message in subscription.listen():
        if message["data"] in waiting:
            waiting[message["data"]].set()


if os.environ.get("BASELINE_ROLE") == "web":
    threading.Thread(target=wake_callers, daemon=True).start()
