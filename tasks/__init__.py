"""Celery: how a dispatch is enqueued, and what a worker does with it."""
