"""The barest honest program for the same work: Flask, Celery and Redis, and nothing else."""
