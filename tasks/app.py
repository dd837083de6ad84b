"""The configured Celery app, without tasks: what it takes to enqueue. The worker's is `tasks.worker`."""

from celery import Celery

app = Celery("takeone")
app.config_from_object("celeryconfig")
