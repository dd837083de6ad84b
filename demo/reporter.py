"""Shows on a console what was called and what it answered, and holds each claim to it."""

import re
from typing import Any

import requests
from rich.console import Console

UUID = re.compile(r"([0-9a-f]{8})(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class WrongAnswerError(Exception):
    """The service did not do what it promises; the message says what was expected and seen."""


class Reporter:
    """Tells on a console what holds, and keeps in `proved` what is to be said at the end."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.proved: list[str] = []

    def chapter(self, title: str) -> None:
        """Begin a chapter."""
        self.console.print(f"\n[bold]{title}[/]")

    def call(self, what: str, expected: int, answer: requests.Response) -> dict[str, Any]:
        """Show an answer, check its status, and return its body."""
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
        """Show a claim that holds; raise WrongAnswerError for one that does not."""
        if not holds:
            raise WrongAnswerError(f"{claim}: no. Seen: {seen}")
        self.say(f"[green]✓[/] {claim}")

    def say(self, line: str) -> None:
        """Print one line of a chapter."""
        self.console.print(f"  {line}", soft_wrap=True, highlight=False)

    def prove(self, fact: str) -> None:
        """Keep a fact for the end of the story."""
        self.proved.append(fact)
