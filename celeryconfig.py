"""Celery's settings, each with the reason it is not the default. Read by `tasks.app`.

The claim in the store is the truth; Celery only carries ids to a free worker. So nothing here tries to make
Celery deliver exactly once: a lost message is sent again by the sweep, a doubled one meets a claim that has
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
# A worker outlives any outage of its broker; without a limit it would give up after 100 tries.
broker_connection_max_retries = None
broker_pool_limit = 8

# No result backend: no process reads a result, and with one a second run under the same id would answer
# with the first one's (spec/decisions/0004).
result_backend = None
task_ignore_result = True
task_store_errors_even_if_ignored = False

# A publish that raised may have landed all the same; trying again would land it twice.
task_publish_retry = False

# On Redis a message is gone once it is popped: the sweep carries what that loses, at a third of the
# cost of Celery's bookkeeping of unacknowledged messages (spec/decisions/0007).
task_queues = [
    Queue(name, routing_key=name, no_ack=is_redis(_settings)) for name in queue_names(_settings)
]
task_default_queue = queue_names(_settings)[0]
task_create_missing_queues = False
task_acks_late = False
worker_prefetch_multiplier = 1

# A dispatch waits for the orchestrator nearly all its time: threads do that at less than half the CPU
# of greenlets or processes. Their time limits do not work; ours are in `orchestrators.client`.
worker_pool = "threads"
worker_concurrency = _settings.worker_concurrency
worker_enable_remote_control = True
worker_send_task_events = True
task_send_sent_event = False
event_queue_ttl = 5

# Long dispatches are finished, not dropped, when a worker is told to stop.
worker_soft_shutdown_timeout = 0

accept_content = ["json"]
task_serializer = "json"
event_serializer = "json"
enable_utc = True
timezone = "UTC"

# Our own formatter keeps every line under the same rule; Celery's would print arguments.
worker_hijack_root_logger = False
worker_redirect_stdouts = False
