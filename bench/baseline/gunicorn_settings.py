"""gunicorn's settings for the bare baseline. Named, because unnamed it would take the service's file."""

worker_class = "gthread"
threads = 160
keepalive = 75
