"""Rules and models of Take One. Pure: no clock, no I/O, and nothing of Flask, Celery, Redis or requests."""
