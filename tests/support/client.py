"""The API client of the tests; the same one that the demo uses."""

from demo.client import ApiClient, now, status_report

__all__ = ["ApiClient", "now", "status_report"]
