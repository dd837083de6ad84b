"""The orchestrator's record: an append-only file of JSON lines that survives kill -9."""

import json
import os
import threading
from pathlib import Path
from typing import Any

from tests.chaos.history import moment


class Record:
    """Appends entries, each by one write(2), so that kill -9 leaves complete lines only."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        self._lock = threading.Lock()

    def note(self, kind: str, **fields: Any) -> None:
        """Append one entry; the kernel has it when this returns."""
        line = json.dumps({"kind": kind, "at": moment(), **fields}) + "\n"
        with self._lock:
            os.write(self._file, line.encode())


def read_record(path: Path) -> list[dict[str, Any]]:
    """Return all complete entries, oldest first."""
    if not path.exists():
        return []
    lines = path.read_text().split("\n")[:-1]
    return [json.loads(line) for line in lines]
