"""Use cases of the API and the command line. They know neither Flask nor Celery."""
