"""Checks that the acceptance tests have seen each operation of the specification with each of its statuses.

The check is at the end of the run and not a test, since no process of pytest-xdist sees all responses.
"""

from typing import Any

import pytest

from devstack.processes import ROOT
from tests.support import openapi

# Statuses that are not checked for every operation, and the test that covers them.
_ELSEWHERE = {
    "503": "tests/acceptance/test_store_and_broker_faults.py sees one for every kind of route",
    "413": "tests/acceptance/test_bad_requests.py, over raw connections",
}
_SEEN, _RAN = "specification_coverage", "files_of_tests"


class SpecificationCoverage:
    """A pytest plugin: fails a run of all acceptance tests that has not seen a documented status."""

    def __init__(self) -> None:
        self._ran: set[str] = set()
        self._missed: set[tuple[str, str, str]] = set()

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Collect what a process of pytest-xdist has seen; one that crashed sends nothing."""
        output = getattr(node, "workeroutput", {})
        openapi.seen.update(map(tuple, output.get(_SEEN, ())))
        self._ran.update(output.get(_RAN, ()))

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Send what was seen to the main process or, in the main process, check what all have seen."""
        self._ran.update(str(item.path) for item in getattr(session, "items", ()))
        if hasattr(session.config, "workeroutput"):
            session.config.workeroutput |= {_SEEN: sorted(openapi.seen), _RAN: sorted(self._ran)}
        elif session.exitstatus == pytest.ExitCode.OK and self._is_whole:
            self._missed = _described() - openapi.seen
            if self._missed:
                session.exitstatus = pytest.ExitCode.TESTS_FAILED

    @property
    def _is_whole(self) -> bool:
        return {str(path) for path in (ROOT / "tests/acceptance").glob("test_*.py")} <= self._ran

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """List what was not seen."""
        if self._missed:
            terminalreporter.section("described in spec/api/openapi.yaml, but in no answer")
            for method, path, status in sorted(self._missed):
                terminalreporter.line(f"{method.upper()} {path} {status}", red=True)


def _described() -> set[tuple[str, str, str]]:
    return {
        (method, path, status)
        for method, path, operation in openapi.operations()
        for status in operation["responses"]
        if status not in _ELSEWHERE
    }
