"""Production's rules over interned records: a record is a small number, and a rule is asked once."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from domain import dispatch_steps as steps
from domain import lifecycle
from domain.callbacks import StatusCallback, apply_callback
from domain.change import Change, Errand, Record
from domain.claim import Claim, ClaimEvent, DispatchPolicy
from domain.dispatching import decide_retry, decide_run
from domain.errors import TakeOneError
from domain.job_fsm import JobStatus
from domain.models import Failure, Job, Manifest
from store.in_flight import InFlightIndex

UNIT = timedelta(minutes=1)
NOW = datetime(2026, 1, 1, tzinfo=UTC)
# A worker that began this long ago, or longer, is past its deadline and past its lease.
OLDEST = 2
_MOST_COUNTED = 2


class Token(NamedTuple):
    """What a message says of the claim it is for."""

    dispatch_id: str
    epoch: int


@dataclass(frozen=True, slots=True)
class Step:
    """What a rule decided: the record that it leads to, and the message that goes with it."""

    after: int
    message: Token | None
    moves: tuple[tuple[JobStatus | None, JobStatus], ...]


def policy(*, hold: int | None = 1, deduplicates: bool = False) -> DispatchPolicy:
    """Unit leases; the sending lease outlasts the exchange's own limit of one unit."""
    return DispatchPolicy(UNIT, 2 * UNIT, hold * UNIT if hold else None, deduplicates)


class Rules:
    """The rules under one policy. Times in records are relative: the present is always `NOW`."""

    def __init__(self, dispatch_policy: DispatchPolicy) -> None:
        self.policy = dispatch_policy
        self.records: list[Record] = []
        self._numbers: dict[str, int] = {}
        self._known: dict[tuple[Any, ...], Any] = {}

    def number(self, record: Record) -> int:
        """The number of a record, stripped of everything that no rule looks at."""
        plain = Record(_plain_job(record.job), _plain_claim(record.claim))
        key = f"{plain.job.model_dump_json()}{plain.claim and plain.claim.model_dump_json()}"
        if key not in self._numbers:
            self._numbers[key] = len(self.records)
            self.records.append(plain)
        return self._numbers[key]

    def later(self, number: int) -> int:
        """The same record one unit of time on."""
        return self._once(("later", number), lambda: self._later(number))

    def _later(self, number: int) -> int:
        record = self.records[number]
        if record.claim is None or record.claim.lease_until is None:
            return number
        due = record.claim.lease_until - UNIT
        return self.number(Record(record.job, record.claim.model_copy(update={"lease_until": due})))

    def begin(self, number: int, token: Token, age: int) -> Step | None:
        """A worker that looked at its clock `age` units ago stores its intent."""
        moment = NOW - age * UNIT
        return self._step(
            ("begin", number, token, age),
            lambda record: steps.begin(record, _full(token), moment, self.policy),
        )

    def still_wanted(self, number: int, token: Token) -> bool:
        """Whether a worker that reached nobody may try again."""
        record = self.records[number]
        return bool(
            self._once(("wanted", number, token), lambda: steps.still_wanted(record, _full(token)))
        )

    def settle(self, number: int, token: Token, event: ClaimEvent) -> Step | None:
        """Somebody with a token says what came of it."""
        return self._step(
            ("settle", number, token, event),
            lambda record: steps.settle(record, _full(token), event, event.value, NOW, self.policy),
        )

    def sweep(self, number: int) -> Step | None:
        """The sweep looks at the claim."""
        return self._step(
            ("sweep", number), lambda record: steps.lease_over(record, NOW, self.policy)
        )

    def ask(self, number: int, request: str) -> Step | None:
        """A request of an editor, an operator or the orchestrator, by its name."""
        return self._step(("ask", number, request), lambda record: self._ask(record, request))

    def _ask(self, record: Record, request: str) -> Change | None:
        name, _, rest = request.partition(" ")
        if name == "run":
            return decide_run(record, NOW, self.policy).change
        if name == "retry":
            return decide_retry(record, rest, "standard", NOW, self.policy).change
        if name == "cancel":
            return lifecycle.cancel(record, NOW, self.policy, None).change
        if name == "operator":
            return steps.settle_by_operator(record, ClaimEvent(rest), "he says", NOW, self.policy)
        return apply_callback(record, None, _callback(rest), NOW, self.policy).change

    def _step(self, key: tuple[Any, ...], rule: Callable[[Record], Change | None]) -> Step | None:
        found: Step | None = self._once(key, lambda: self._decide(key[1], rule))
        return found

    def _decide(self, number: int, rule: Callable[[Record], Change | None]) -> Step | None:
        try:
            change = rule(self.records[number])
        except TakeOneError:
            return None
        if change is None:
            return None
        claim = change.record.claim
        sends = change.errand is Errand.DISPATCH and claim is not None
        message = Token(claim.dispatch_id, claim.epoch) if sends and claim else None
        moves = tuple((line.from_status, line.to_status) for line in change.trail)
        return Step(self.number(change.record), message, moves)

    def _once(self, key: tuple[Any, ...], make: Callable[[], Any]) -> Any:
        if key not in self._known:
            self._known[key] = make()
        return self._known[key]

    def entry_before(self, before: int, after: int) -> float | None:
        """Where the index entry is put before a commit, in units from now; None if nowhere."""
        old, new = self.records[before].claim, self.records[after].claim
        for command in InFlightIndex.additions("job", None if old == new else old, new):
            if "in-flight" in command[1]:
                return _units(float(command[2]))
        return None

    def entry_after(self, before: int, after: int) -> float | None:
        """The index entry that a commit makes stale, in units from now; None if none."""
        index = InFlightIndex(None)  # type: ignore[arg-type] - only remembers
        index.settled("job", self.records[before].claim, self.records[after].claim)
        stale = [score for name, _, score in index._dropping if "in-flight" in name]
        return _units(stale[0]) if stale else None


def _units(score: float) -> float:
    return (datetime.fromtimestamp(score, UTC) - NOW) / UNIT


def _full(token: Token) -> steps.Token:
    return steps.Token("job", *token)


def _callback(status: str) -> StatusCallback:
    failed = status == JobStatus.FAILED
    return StatusCallback(
        event_id="new",
        digest="new",
        status=JobStatus(status),
        occurred_at=NOW,
        correlation_id="c",
        failure=Failure() if failed else None,
    )


def _plain_claim(claim: Claim | None) -> Claim | None:
    if claim is None:
        return None
    due = claim.lease_until
    return claim.model_copy(
        update={
            "claimed_at": NOW,
            "lease_until": max(due, NOW) if due else None,
            "messages": min(claim.messages, _MOST_COUNTED),
            "sends": min(claim.sends, _MOST_COUNTED),
            "sent_at": NOW if claim.sent_at else None,
            "settled_at": NOW if claim.settled_at else None,
        }
    )


def _plain_job(job: Job) -> Job:
    earlier = {name: _plain_claim(claim) for name, claim in job.earlier.items()}
    return job.model_copy(
        update={
            "created_at": NOW,
            "updated_at": NOW,
            "version": 1,
            "latest_occurred_at": NOW if job.latest_occurred_at else None,
            "released": _plain_claim(job.released),
            "earlier": earlier,
        }
    )


def uploaded_record() -> Record:
    """A job that a run may start."""
    job = Job(
        id="job",
        project_id="project",
        owner="alice",
        status=JobStatus.UPLOADED,
        manifest=Manifest(video_uri="s3://video"),
        created_at=NOW,
        updated_at=NOW,
    )
    return Record(job)


def failed_record(rules: Rules) -> Record:
    """A job whose run was executed and failed after its first checkpoint, made by the rules."""
    number = rules.number(uploaded_record())
    token = Token("run-job", 1)
    path = [
        lambda n: rules.ask(n, "run"),
        lambda n: rules.begin(n, token, 0),
        lambda n: rules.settle(n, token, ClaimEvent.ACCEPTED),
        lambda n: rules.ask(n, "callback AUDIO_READY"),
        lambda n: rules.ask(n, "callback FAILED"),
    ]
    for step in path:
        found = step(number)
        assert found is not None
        number = found.after
    record = rules.records[number]
    manifest = record.job.manifest.model_copy(update={"audio_uri": "s3://audio"})
    return Record(record.job.model_copy(update={"manifest": manifest}), record.claim)
