"""The API client of the tests: checks every answer against the specification."""

from typing import Any

from devstack.client import ApiClient as PlainApiClient
from devstack.client import now, status_report
from tests.support.openapi import check_response

__all__ = ["ApiClient", "now", "status_report"]


class ApiClient(PlainApiClient):
    """Raises AssertionError for an answer that the specification does not describe."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.session.hooks["response"].append(check_response)
