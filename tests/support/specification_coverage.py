"""After the whole of the acceptance tests: was each operation seen with each of its statuses?

It is asked at the end of the run, not by a test: where several processes run the tests, none of them saw all.
"""

from typing import Any

import pytest

from devstack.processes import ROOT
from tests.support import openapi

# Statuses that these tests cannot cause, with the test that does.
_ELSEWHERE = {
    "503": "tests/acceptance/test_store_and_broker_faults.py sees one for every kind of route",
    "413": "tests/acceptance/test_bad_requests.py, over raw connections",
}
_SEEN, _RAN = "specification_coverage", "files_of_tests"


class SpecificationCoverage:
    """A plugin of pytest: a run that passed fails if it ran every acceptance test and missed a status."""

    def __init__(self) -> None:
        self._ran: set[str] = set()
        self._missed: set[tuple[str, str, str]] = set()

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Take what a process of pytest-xdist has seen; one that crashed has nothing to tell."""
        told = getattr(node, "workeroutput", {})
        openapi.seen.update(map(tuple, told.get(_SEEN, ())))
        self._ran.update(told.get(_RAN, ()))

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Tell the main process of the run what was seen here, or judge what all have seen."""
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
        """Name what was missed."""
        if self._missed:
            terminalreporter.section("described in spec/api/openapi.yaml, and seen in no answer")
            for method, path, status in sorted(self._missed):
                terminalreporter.line(f"{method.upper()} {path} {status}", red=True)


def _described() -> set[tuple[str, str, str]]:
    return {
        (method, path, status)
        for method, path, operation in openapi.operations()
        for status in operation["responses"]
        if status not in _ELSEWHERE
    }
