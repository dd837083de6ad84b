"""The smallest program that does the same work: Flask, Celery and Redis, and nothing else."""
