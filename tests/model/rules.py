"""Production's rules over numbered records. The result of a rule is remembered, so it is called once."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from domain import claim_rules as steps
from domain import lifecycle, reconcile
from domain.audit import OperatorAct
from domain.claim import Claim, ClaimEvent, DispatchPolicy, FencingToken, Phase, RunState
from domain.errors import TakeOneError
from domain.job import Failure, Job, Manifest
from domain.job_fsm import JobStatus
from domain.record import Change, Decision, Record, TaskKind
from domain.retry import decide_retry
from domain.run import decide_run
from domain.status_callback import StatusCallback, apply_callback

# Longer than any time that the rules have built in: what is due in less is due one unit later.
UNIT = timedelta(days=1)
NOW = datetime(2026, 1, 1, tzinfo=UTC)
# The oldest ages that are told apart. A worker that began so long ago is past its deadline and its lease.
OLDEST = OLDEST_SEND = 2
_MOST_COUNTED = 2
FOR_EVER = 99
ACT = OperatorAct("olga", "a reason")
_TIMES = ("sent_at", "first_sent_at", "settled_at", "asked_at", "ended_at")


class Token(NamedTuple):
    """The claim that a message is for."""

    dispatch_id: str
    epoch: int


@dataclass(frozen=True, slots=True)
class Step:
    """What a rule decided: the next record, the message to send, and the changes of state."""

    after: int
    message: Token | None
    moves: tuple[tuple[JobStatus | None, JobStatus], ...]


def policy(
    *,
    hold: int | None = 1,
    window: int | None = None,
    can_be_asked: bool = False,
    first_report: int | None = None,
) -> DispatchPolicy:
    """A policy in units; `window` may be `FOR_EVER`. The send lease outlasts any exchange."""
    lasts = timedelta.max if window == FOR_EVER else window and window * UNIT
    return DispatchPolicy(
        UNIT,
        2 * UNIT,
        hold * UNIT if hold else None,
        lasts,
        can_be_asked,
        engine="the engine",
        first_report=first_report * UNIT if first_report else None,
    )


class Rules:
    """The rules under one policy. Times in records are relative: the current time is always `NOW`."""

    def __init__(self, dispatch_policy: DispatchPolicy) -> None:
        self.policy = dispatch_policy
        self.records: list[Record] = []
        self._numbers: dict[str, int] = {}
        self._known: dict[tuple[Any, ...], Any] = {}

    def number(self, record: Record) -> int:
        """The number of a record, without everything that no rule looks at."""
        plain = Record(self._plain_job(record.job), self._plain_claim(record.claim))
        key = f"{plain.job.model_dump_json()}{plain.claim and plain.claim.model_dump_json()}"
        if key not in self._numbers:
            self._numbers[key] = len(self.records)
            self.records.append(plain)
        return self._numbers[key]

    def _plain_claim(self, claim: Claim | None, is_past: bool = False) -> Claim | None:
        if claim is None:
            return None
        due, oldest = claim.lease_until, self._looked_at(claim, is_past)
        return claim.model_copy(
            update={
                "claimed_at": NOW,
                "lease_until": NOW + max(0, -((NOW - due) // UNIT)) * UNIT if due else None,
                "messages": min(claim.messages, _MOST_COUNTED),
                "sends": min(claim.sends, _MOST_COUNTED),
                "asks": 0,
                "run_state_at": None,
                **{name: self._since(getattr(claim, name), oldest.get(name, 0)) for name in _TIMES},
            }
        )

    def _looked_at(self, claim: Claim, is_past: bool) -> dict[str, int]:
        """For each time of a claim, how many units of its age make a difference to a rule."""
        if is_past:
            return {}
        asked, window = self.policy.can_be_asked, self.policy.window
        if claim.phase is Phase.SENT:
            asked = asked and self.policy.first_report is not None
            return {"settled_at": 1, "asked_at": 1, "ended_at": 1} if asked else {}
        finite = window is not None and window != timedelta.max
        hold = self.policy.unknown_hold if window is None else None
        held = int(asked) or (hold // UNIT if hold else 0)
        return {
            "first_sent_at": OLDEST_SEND if finite else 0,
            "sent_at": held if claim.phase is Phase.UNKNOWN else 0,
            "asked_at": 1,
        }

    def _since(self, moment: datetime | None, units: int) -> datetime | None:
        return max(moment, NOW - units * UNIT) if moment else None

    def _plain_job(self, job: Job) -> Job:
        past = tuple(self._plain_claim(claim, True) for claim in job.past_claims)
        return job.model_copy(
            update={
                "created_at": NOW,
                "updated_at": NOW,
                "version": 1,
                "reports": 0,
                "repeats": 0,
                "latest_occurred_at": NOW if job.latest_occurred_at else None,
                "reported_at": None,
                "status_since": None,
                "silent_since": NOW if job.silent_since else None,
                "past_claims": past,
            }
        )

    def is_at_rest(self, number: int) -> bool:
        """Whether a commit of this record gives its keys a time to live."""
        return lifecycle.is_at_rest(self.records[number])

    def later(self, number: int) -> int:
        """The same record one unit of time later."""
        return self._once(("later", number), lambda: self._later(number))

    def _later(self, number: int) -> int:
        record = self.records[number]
        if record.claim is None:
            return number
        times = record.claim.model_dump(include={"lease_until", *_TIMES}, exclude_none=True)
        earlier = {name: moment - UNIT for name, moment in times.items()}
        return self.number(Record(record.job, record.claim.model_copy(update=earlier)))

    def begin(self, number: int, token: Token, age: int) -> Step | None:
        """A worker whose clock started `age` units ago stores its intent to post."""
        moment = NOW - age * UNIT
        return self._step(
            ("begin", number, token, age),
            lambda record: steps.begin(Change(record, moment, self.policy), _full(token)),
        )

    def still_wanted(self, number: int, token: Token) -> bool:
        """Whether a worker that did not reach the orchestrator may try again."""
        record = self.records[number]
        return self._once(
            ("wanted", number, token),
            lambda: steps.still_wanted(record, _full(token), NOW, self.policy),
        )

    def settle(self, number: int, token: Token, event: ClaimEvent) -> Step | None:
        """A process with a token reports the outcome."""
        return self._step(
            ("settle", number, token, event),
            lambda record: steps.settle(
                Change(record, NOW, self.policy), _full(token), event, event.value
            ),
        )

    def sweep(self, number: int) -> Step | None:
        """The sweep looks at the claim."""
        return self._step(
            ("sweep", number), lambda record: reconcile.look(Change(record, NOW, self.policy))
        )

    def answered(self, number: int, asked: int, state: RunState) -> Step | None:
        """An engine's answer arrives; `asked` is the record that it was asked about."""
        before = self._revised(asked)
        return self._step(
            ("answered", number, asked, state),
            lambda _: reconcile.answered(
                Change(self._revised(number), NOW, self.policy), before, state
            ),
        )

    def _revised(self, number: int) -> Record:
        return replace(self.records[number], revision=(str(number).encode(), b""))

    def may_be_asked(self, number: int) -> bool:
        """Whether a worker may ask the engine about this record."""
        claim, policy = self.records[number].claim, self.policy
        if claim is None or not claim.sends or not policy.can_be_asked:
            return False
        return claim.phase is not Phase.SENT or policy.first_report is not None

    def ask(self, number: int, request: str) -> Step | None:
        """A request of an editor, an operator or the orchestrator, such as "retry a"."""
        return self._step(("ask", number, request), lambda record: self._ask(record, request))

    def _ask(self, record: Record, request: str) -> Decision[Any]:
        name, _, rest = request.partition(" ")
        if name == "run":
            return decide_run(Change(record, NOW, self.policy))
        if name == "retry":
            return decide_retry(Change(record, NOW, self.policy), rest, "standard")
        if name == "fail":
            return lifecycle.fail(Change(record, NOW, self.policy, act=ACT))
        if name == "cancel":
            return lifecycle.cancel(Change(record, NOW, self.policy))
        if name == "operator":
            return steps.settle_by_operator(
                Change(record, NOW, self.policy, act=ACT), ClaimEvent(rest)
            )
        return apply_callback(Change(record, NOW, self.policy), _callback(rest))

    def _step(self, key: tuple[Any, ...], rule: Callable[[Record], Decision[Any]]) -> Step | None:
        return self._once(key, lambda: self._decide(key[1], rule))

    def _decide(self, number: int, rule: Callable[[Record], Decision[Any]]) -> Step | None:
        try:
            decision = rule(self.records[number])
        except TakeOneError:
            return None
        if not decision.changed:
            return None
        claim = decision.record.claim
        is_dispatch = decision.task is TaskKind.DISPATCH
        message = Token(claim.dispatch_id, claim.epoch) if is_dispatch and claim else None
        moves = tuple((event.from_status, event.to_status) for event in decision.events)
        return Step(self.number(decision.record), message, moves)

    def _once(self, key: tuple[Any, ...], make: Callable[[], Any]) -> Any:
        if key not in self._known:
            self._known[key] = make()
        return self._known[key]


def _full(token: Token) -> FencingToken:
    return FencingToken("job", *token)


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
    """A job whose run was executed and failed after its first checkpoint."""
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
