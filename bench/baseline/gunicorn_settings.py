"""gunicorn's settings for the bare program."""

worker_class = "gthread"
threads = 160
keepalive = 75
