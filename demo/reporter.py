"""Prints calls and their answers, and checks them."""

import re
from typing import Any

import requests
from rich.console import Console

UUID = re.compile(r"([0-9a-f]{8})(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class WrongAnswerError(Exception):
    """The service broke a promise; the message has the expected and the actual result."""


class Reporter:
    """Prints each check that holds, and collects in `proved` the facts for the summary."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.proved: list[str] = []

    def chapter(self, title: str) -> None:
        self.console.print(f"\n[bold]{title}[/]")

    def call(self, what: str, expected: int, answer: requests.Response) -> dict[str, Any]:
        """Print an answer and return its body; raise WrongAnswerError for another status than `expected`."""
        request, status = answer.request, answer.status_code
        path = UUID.sub(r"\1…", request.path_url)
        if status != expected:
            wrong = f"{request.method} {path} answered {status} instead of {expected}"
            raise WrongAnswerError(f"{wrong}: {answer.text[:500]}")
        took = f"{answer.elapsed.total_seconds() * 1000:.0f} ms"
        self.check(f"{what} → [bold]{status}[/]  [dim]{request.method} {path}  {took}[/]", True)
        body: dict[str, Any] = answer.json()
        return body

    def check(self, claim: str, holds: bool, seen: object = None) -> None:
        """Print a claim that holds; raise WrongAnswerError otherwise."""
        if not holds:
            raise WrongAnswerError(f"{claim}: no. Seen: {seen}")
        self.print(f"[green]✓[/] {claim}")

    def print(self, line: str) -> None:
        """Print one line of a chapter."""
        self.console.print(f"  {line}", soft_wrap=True, highlight=False)
