"""What the acceptance tests saw, against the specification: each operation with each of its statuses."""

import pytest

from devstack.processes import ROOT
from tests.support import openapi

# Statuses that these tests cannot cause, with the test that does.
_ELSEWHERE = {
    "503": "tests/acceptance/test_store_and_broker_faults.py sees one for every kind of route",
    "413": "tests/acceptance/test_bad_requests.py, over raw connections",
}


def test_every_operation_was_seen_with_every_status(request: pytest.FixtureRequest) -> None:
    """Runs last in this folder, and only where the whole of it ran."""
    ran = {item.path for item in request.session.items}
    if not set((ROOT / "tests/acceptance").glob("test_*.py")) <= ran:
        pytest.skip("only a part of the acceptance tests ran")
    described = {
        (method, path, status)
        for method, path, operation in openapi.operations()
        for status in operation["responses"]
        if status not in _ELSEWHERE
    }
    assert described - openapi.seen == set()
