"""Celery's settings, each with the reason why it is not the default. Read by `tasks.app`.

The claim in the store is the truth; Celery only carries ids to a free worker. So nothing here tries to make
Celery deliver exactly once: the sweep sends a lost message again, and a duplicate meets a claim that has
moved on.
"""

from kombu import Queue

from settings import load_store_settings
from tasks.queues import broker_options, broker_tls, broker_transport_url, is_redis, queue_names

_settings = load_store_settings()

broker_url = broker_transport_url(_settings)
broker_transport_options = broker_options(_settings)
broker_use_ssl = broker_tls(_settings)
broker_connection_retry_on_startup = True
# A worker outlives any outage of its broker; with the default it would give up after 100 tries.
broker_connection_max_retries = None
# Nor does it give up at an error reply: a Redis whose disk is full answers even a PING with one.
broker_channel_error_retry = is_redis(_settings)
broker_pool_limit = 8

# There is no result backend (spec/decisions/0004): a second run under the same id would return the result of
# the first one.
task_ignore_result = True

# A publish that raised may have succeeded, and a retry would publish the message twice.
task_publish_retry = False

# On Redis a message is gone once it is popped: the sweep recovers what that loses, for a third of the cost of
# Celery's bookkeeping of unacknowledged messages (spec/decisions/0007).
task_queues = [
    Queue(name, routing_key=name, no_ack=is_redis(_settings)) for name in queue_names(_settings)
]
task_default_queue = queue_names(_settings)[0]
task_create_missing_queues = False
worker_prefetch_multiplier = 1

# A dispatch mostly waits for the orchestrator: threads do that at less than half the CPU of greenlets or
# processes. Celery's time limits do not work with threads; ours are in `orchestrators.client`.
worker_pool = "threads"
worker_concurrency = _settings.worker_concurrency
worker_send_task_events = True

# Our own formatter applies one rule to every line; Celery's would print arguments.
worker_hijack_root_logger = False
worker_redirect_stdouts = False
