"""The results: tables in Markdown, and the raw numbers."""

import platform
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

import psutil

_PACKAGES = ["celery", "kombu", "redis", "hiredis", "flask", "granian", "gunicorn", "requests"]


@dataclass
class Report:
    """Tables in the order of the parts, and everything measured, by part."""

    texts: list[str] = field(default_factory=list)
    raw: dict[str, Any] = field(default_factory=dict)

    def table(
        self, title: str, head: Sequence[str], rows: Sequence[Sequence[object]], note: str = ""
    ) -> None:
        """Add a table, and print it at once: the whole run takes minutes."""
        cells = [[str(cell) for cell in row] for row in (head, *rows)]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = [_line(row, widths) for row in cells]
        lines.insert(1, _line(["-" * width for width in widths], widths))
        text = "\n".join([f"### {title}", "", *lines, *(["", note] if note else []), ""])
        self.texts.append(text)
        print(text, flush=True)

    def keep(self, part: str, numbers: object) -> None:
        """Keep raw numbers for the JSON."""
        self.raw[part] = numbers


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = (cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
    return "| " + " | ".join(padded) + " |"


def machine() -> dict[str, Any]:
    """The machine and the versions that were measured."""
    return {
        "system": platform.platform(),
        "processor": _processor(),
        "cores": psutil.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in _PACKAGES},
    }


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as cpus:
            for line in cpus:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor()
