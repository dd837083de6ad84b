"""The verdict on a run: each job's end, and every violation of what the service promises."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from tests.chaos import trail
from tests.chaos.ends import LOST, STUCK, UNKNOWN, end_of, proceeding_executions
from tests.chaos.history import JobStory, Operation
from tests.chaos.linearize import explain
from tests.chaos.model import dispatch_of
from tests.chaos.search_graph import Post


@dataclass(frozen=True)
class Rules:
    """What the run's settings promise.

    `hold_seconds`: how long an unknown outcome is held; 0 where it is sent again at once.
    `idempotent`: the orchestrator honours every Idempotency-Key. `queryable`: the engine can be queried.
    """

    hold_seconds: float
    idempotent: bool
    queryable: bool = False


@dataclass
class JobVerdict:
    """One job's end and its violations.

    `undecided` says why the search for an order was given up: neither a pass nor a violation.
    `as_recorded`: the order of its trail explains the answers.
    """

    story: JobStory
    end: str
    violations: list[str] = field(default_factory=list)
    undecided: str = ""
    as_recorded: bool = False
    duplicates: int = 0


def check(stories: list[JobStory], rules: Rules) -> list[JobVerdict]:
    return [check_job(story, rules) for story in stories]


def check_job(story: JobStory, rules: Rules) -> JobVerdict:
    """Check one job: its end, executions, answers and trail, and that some order explains them."""
    verdict = JobVerdict(story, end_of(story))
    proceeding = proceeding_executions(story)
    verdict.duplicates = sum(len(names) - 1 for names in proceeding.values())
    found = verdict.violations
    if verdict.end in (STUCK, LOST):
        found.append(f"{verdict.end}: {_brief(story)}")
    if verdict.end == UNKNOWN and rules.idempotent:
        found.append(f"unknown, and nothing settled it: {_brief(story)}")
    if (story.claim or {}).get("phase") == "SENT" and (story.claim or {}).get("cancel_due"):
        found.append("the cancel never reached the orchestrator")
    for dispatch, names in proceeding.items():
        if len(names) > 1:
            found.append(f"{len(names)} executions of {dispatch} proceeded: {sorted(names)}")
    found += _posts_without_intent(story)
    found += _false_answers(story)
    found += _crashes(story)
    found += trail.violations(story, rules.hold_seconds)
    posts = [*posts_of(story), *_found_by_query(story)]
    order = explain(story.operations, posts, rules.idempotent, story.trail, rules.queryable)
    verdict.as_recorded = order.as_recorded
    if order.undecided:
        verdict.undecided = f"no order found among {order.configurations} configurations"
    elif not order.explained:
        furthest = "\n        ".join(order.stuck_at)
        found.append(f"no order explains the answers; the longest attempt ended at: {furthest}")
    return verdict


def _brief(story: JobStory) -> str:
    status = story.job["status"] if story.job else None
    phase = story.claim["phase"] if story.claim else None
    return f"status {status}, claim {phase}, listed as unknown: {story.listed_unknown}"


def posts_of(story: JobStory) -> list[Post]:
    """The dispatches that the orchestrator read, with the answers that it gave."""
    answers = {entry["post"]: entry["status"] for entry in story.entries("answer")}
    return [
        Post(entry["dispatch"], entry["at"], answers.get(entry["post"]))
        for entry in story.entries("post")
    ]


def _found_by_query(story: JobStory) -> Iterator[Post]:
    """The queries that found a dispatch: each proves it received, as an acceptance does."""
    for entry in story.entries("ask"):
        if entry["state"] not in (None, "not_found"):
            is_bad = entry["state"] in trail.ENDED_BADLY
            yield Post(entry["dispatch"], entry["at"], 200, ended_badly=is_bad)


def _posts_without_intent(story: JobStory) -> Iterator[str]:
    """The trail has one dispatch.sent for each post, and none after a cancel."""
    sent = Counter(e["dispatch_id"] for e in story.trail if e["event_type"] == "dispatch.sent")
    posted = Counter(post.dispatch for post in posts_of(story))
    for dispatch, count in posted.items():
        if count > sent[dispatch]:
            yield f"{dispatch} was posted {count} times, with {sent[dispatch]} times dispatch.sent"
    for event in story.trail:
        if event["event_type"] == "dispatch.sent" and event["prev_status"] == "CANCELLED":
            yield "a cancelled job was dispatched"


def _false_answers(story: JobStory) -> Iterator[str]:
    """A dispatch called accepted was posted, and each claim has at most one 202."""
    posts, firsts = posts_of(story), Counter[str]()
    for operation in story.operations:
        if operation.kind not in ("run", "retry") or operation.status not in (200, 202):
            continue
        dispatch, body = dispatch_of(operation), operation.body
        if body.get("dispatch_id") != dispatch or body.get("replayed") != (operation.status == 200):
            yield f"an answer about another dispatch: {operation}"
        firsts[dispatch] += operation.status == 202
        if _says_accepted(operation) and not _was_posted(dispatch, posts, operation):
            yield f"called accepted, but the orchestrator never got it: {operation}"
    yield from _more_firsts_than_claims(story, firsts)


def _says_accepted(operation: Operation) -> bool:
    return operation.kind == "run" and operation.body.get("status") != "UPLOADED"


def _was_posted(dispatch: str, posts: list[Post], operation: Operation) -> bool:
    return any(post.dispatch == dispatch and post.at <= (operation.end or 0) for post in posts)


def _more_firsts_than_claims(story: JobStory, firsts: Counter[str]) -> Iterator[str]:
    made = ("dispatch.claimed", "dispatch.resent")
    claimed = Counter(event["dispatch_id"] for event in story.trail if event["event_type"] in made)
    for dispatch, count in firsts.items():
        if count > claimed[dispatch]:
            yield f"{dispatch}: 202 to {count} callers, with {claimed[dispatch]} claims"


def _crashes(story: JobStory) -> Iterator[str]:
    for operation in story.operations:
        if operation.status == 500 or operation.body.get("code") == "INTERNAL_ERROR":
            yield f"the service crashed: {operation}"


def callback_operations(entries: list[dict[str, Any]]) -> list[Operation]:
    """Return the callbacks of the orchestrator's record as operations on the job."""
    answers = {entry["call"]: entry for entry in entries if entry["kind"] == "callback_answer"}
    return [
        _callback(entry, answers.get(entry["call"]))
        for entry in entries
        if entry["kind"] == "callback"
    ]


def _callback(entry: dict[str, Any], answer: dict[str, Any] | None) -> Operation:
    body = entry["body"]
    names = ("event_id", "status", "occurred_at", "execution_id", "dispatch_id")
    request = {name: body.get(name) for name in names}
    operation = Operation(entry["job"], "callback", request, entry["at"])
    if answer is not None:
        operation.status, operation.body = answer["status"], answer["body"]
        operation.end = None if operation.is_ambiguous else answer["at"]
    return operation
