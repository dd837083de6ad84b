"""The world around the rules: one job's record, the queue, and the processes at their program points.

A state is a tuple of small values. `World.next_states` yields every step that can happen in it.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, NamedTuple

from domain.claim import ClaimEvent, DispatchPolicy, Phase, RunState
from domain.record import Record
from tests.model import invariants
from tests.model.rules import (
    NOW,
    OLDEST,
    OLDEST_SEND,
    UNIT,
    Rules,
    Step,
    Token,
    failed_record,
    uploaded_record,
)

EXCHANGE_LIMIT = 1  # the longest exchange in units, from when the worker starts its clock

Point = tuple[Any, ...]
IDLE: Point = ()


class Posts(NamedTuple):
    """What really happened to a dispatch."""

    surplus: int = 0  # POSTs that can start an execution, less those that were permitted again
    begun: bool = False
    executed: bool = False
    age: int = 0  # since the first POST
    ended: bool = False  # badly


_NO_POSTS = Posts()


class State(NamedTuple):
    """The whole state at one moment. A dead process is an idle one."""

    record: int
    expires: bool = False  # the keys have a time to live
    queue: tuple[Token, ...] = ()
    workers: tuple[Point, ...] = ()
    clients: tuple[Point, ...] = ()
    sweeper: Point = IDLE
    asker: Point = IDLE
    posts: tuple[tuple[str, Posts], ...] = ()


class Next(NamedTuple):
    """A possible step: its name, the state after it, and the invariants that it breaks."""

    name: str
    state: State
    broken: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Scenario:
    """What is explored, and within which bounds. Mutants switch the last three fields off."""

    name: str
    policy: DispatchPolicy
    requests: tuple[str, ...]
    callbacks: tuple[tuple[str, str], ...] = (("run-job", "AUDIO_READY"),)
    starts_failed: bool = False
    workers: int = 2
    clients: int = 2
    queue: int = 2
    epochs: int = 2
    is_transactional: bool = True  # the commit itself pushes the message
    compares: bool = True  # a commit fails if the record has changed
    persists: bool = True  # a commit removes the time to live of a job that is not at rest
    clock_before_intent: bool = True  # a worker's clock starts before its intent is stored


class World:
    """Everything that can happen in one scenario."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.rules = Rules(scenario.policy)
        self._judged: dict[tuple[int, int, int, Token | None, str], tuple[str, ...]] = {}

    def first_state(self) -> State:
        """The job at the start of the scenario; all processes are idle."""
        scenario, rules = self.scenario, self.rules
        posts: tuple[tuple[str, Posts], ...] = ()
        record = uploaded_record()
        if scenario.starts_failed:
            record = failed_record(rules)
            posts = (("run-job", Posts(1, begun=True, executed=True)),)
        number = rules.number(record)
        return State(
            number,
            rules.is_at_rest(number),
            workers=(IDLE,) * scenario.workers,
            clients=(IDLE,) * scenario.clients,
            posts=posts,
        )

    def next_states(self, state: State) -> Iterator[Next]:
        """Every step that can happen now."""
        yield self._tick(state)
        if state.expires:
            # Every commit for a job that is gone fails, so no new state follows.
            yield Next("the job expires", state, invariants.of_an_end(self._record(state)))
        yield from self._queue_steps(state)
        for place, point in enumerate(state.workers):
            if self._may_step(state, state.workers, place):
                yield from self._worker_steps(state, place, point)
        for place, point in enumerate(state.clients):
            if self._may_step(state, state.clients, place):
                yield from self._client_steps(state, place, point)
        if self._may_step(state, (state.sweeper,), 0):
            yield from self._sweeper_steps(state)
        if self.scenario.policy.can_be_asked:
            yield from self._engine_steps(state)
            yield from self._asker_steps(state)

    def _record(self, state: State) -> Record:
        return self.rules.records[state.record]

    def _may_step(self, state: State, points: tuple[Point, ...], place: int) -> bool:
        # Of several processes at the same point only one has to be followed.
        is_repeated = place > 0 and points[place] == points[place - 1]
        outdated = self.scenario.compares and _is_outdated(points[place], state.record)
        return not is_repeated and not outdated

    # Time and messages

    def _tick(self, state: State) -> Next:
        later = self.rules.later
        after = State(
            later(state.record),
            state.expires,
            state.queue,
            _sorted(map(self._older, state.workers)),
            _sorted(map(self._older, state.clients)),
            self._older(state.sweeper),
            self._older(state.asker),
            tuple((name, self._aged(posts)) for name, posts in state.posts),
        )
        return Next("time passes", after)

    def _older(self, point: Point) -> Point:
        match point:
            case ("begin", token, age):
                return ("begin", token, min(age + 1, OLDEST))
            case ("begin?", (token, age), snap, after):
                older = (token, min(age + 1, OLDEST))
                return ("begin?", older, self.rules.later(snap), self.rules.later(after))
            case ("send", token, age) if self.scenario.clock_before_intent:
                return ("send", token, min(age + 1, OLDEST))
            case ("answer", asked, engine_state):
                return ("answer", self.rules.later(asked), engine_state)
            case (name, subject, snap, after):
                return (name, subject, self.rules.later(snap), self.rules.later(after))
        return point

    def _aged(self, posts: Posts) -> Posts:
        # The age of the first POST matters only if the window ends.
        counts = self._real_window is not None and posts.begun
        return posts._replace(age=min(posts.age + 1, OLDEST_SEND)) if counts else posts

    @property
    def _real_window(self) -> int | None:
        """How long the engine recognises a dispatch, in units: the policy's window is shorter by a margin."""
        window = self.scenario.policy.window
        return None if window in (None, timedelta.max) else window // UNIT + EXCHANGE_LIMIT

    def _queue_steps(self, state: State) -> Iterator[Next]:
        for place, token in enumerate(state.queue):
            message = f"message of epoch {token.epoch}"
            rest = state.queue[:place] + state.queue[place + 1 :]
            yield Next(f"{message} is lost", state._replace(queue=rest))
            if len(state.queue) < self.scenario.queue:
                doubled = _pushed(state.queue, token)
                yield Next(f"{message} is duplicated", state._replace(queue=doubled))
            if IDLE in state.workers:
                worker, taken = state.workers.index(IDLE), state._replace(queue=rest)
                begins = _with_worker(taken, worker, ("begin", token, 0))
                yield Next(f"worker takes the {message}", begins)

    # A worker

    def _worker_steps(self, state: State, place: int, point: Point) -> Iterator[Next]:
        if point == IDLE:
            return
        yield Next("worker dies", _with_worker(state, place, IDLE))
        match point:
            case ("begin", token, age):
                step = self.rules.begin(state.record, token, age)
                decided = _decided("begin?", (token, age), state, step)
                yield Next("worker reads to begin", _with_worker(state, place, decided))
            case ("begin?", (token, age), snap, after):
                age = age if self.scenario.clock_before_intent else 0
                yield from self._begun(state, place, token, age, snap, after)
            case ("send", token, age):
                yield from self._sending(state, place, token, age)
            case ("settle", (token, event)):
                step = self.rules.settle(state.record, token, event)
                decided = _decided("settle?", (token, event), state, step)
                broken = invariants.of_an_answer(self._record(state), token, event, step)
                after = _with_worker(state, place, decided)
                yield Next(f"worker reads to settle {event}", after, broken)
            case ("settle?", (token, event), snap, after):
                quiet = _with_worker(state, place, IDLE)
                yield self._commit(f"worker settles {event}", quiet, snap, after, token=token)

    def _begun(
        self, state: State, place: int, token: Token, age: int, snap: int, after: int
    ) -> Iterator[Next]:
        claim = self.rules.records[after].claim
        is_begun = claim is not None and claim.phase is Phase.SENDING
        if not is_begun:  # too late to send it again
            quiet = _with_worker(state, place, IDLE)
            yield self._commit("worker holds", quiet, snap, after, token=token)
            return
        moved = _with_worker(state, place, ("send", token, age))
        found = self._commit("worker begins", moved, snap, after, token=token)
        broken = invariants.of_a_begin(self._record(state))
        posts = _posts(found.state, token.dispatch_id)._replace(begun=True)
        marked = _with_posts(found.state, token.dispatch_id, posts)
        yield Next(found.name, marked, found.broken + broken)

    def _sending(self, state: State, place: int, token: Token, age: int) -> Iterator[Next]:
        def answered(event: ClaimEvent, found: State = state) -> State:
            return _with_worker(found, place, ("settle", (token, event)))

        yield Next("nothing was sent", answered(ClaimEvent.NOT_STARTED))
        if self.rules.still_wanted(state.record, token):
            broken = invariants.of_another_try(self._record(state), token)
            yield Next("worker reaches no orchestrator and looks again", state, broken)
        if age >= EXCHANGE_LIMIT:
            return
        yield Next("orchestrator refuses", answered(ClaimEvent.REFUSED))
        accepted, lost = ClaimEvent.ACCEPTED, ClaimEvent.LOST
        for event, executed in ((accepted, True), (lost, True), (lost, False)):
            posts = _posts(state, token.dispatch_id)
            posted = posts._replace(
                surplus=self._surplus_after_post(posts), executed=posts.executed or executed
            )
            broken = invariants.of_a_post(self._record(state), token, posted)
            name = f"POST: {event}, {'' if executed else 'not '}executed"
            after = answered(event, _with_posts(state, token.dispatch_id, posted))
            yield Next(name, after, broken)

    def _surplus_after_post(self, posts: Posts) -> int:
        # An orchestrator that recognises the dispatch makes one execution of any number of POSTs.
        is_over = self._real_window is not None and posts.age >= self._real_window
        if self.scenario.policy.window is None or (posts.surplus and is_over):
            return posts.surplus + 1
        return 1

    # Editors, operators and callbacks, each through a web process

    def _client_steps(self, state: State, place: int, point: Point) -> Iterator[Next]:
        if point == IDLE:
            yield from self._asking(state, place)
            return
        yield Next("web process dies", _with_client(state, place, IDLE))
        match point:
            case ("ask?", *_):
                yield self._ask_commits(state, place, point)
            case ("publish", token):
                done = _with_client(state, place, IDLE)
                failed = _with_client(state, place, ("unqueue", token))
                yield Next("message is published", self._push(done, token))
                yield Next("publish fails", failed)
                yield Next("publish fails, and has landed", self._push(failed, token))
            case ("unqueue", token):
                step = self.rules.settle(state.record, token, ClaimEvent.UNQUEUED)
                decided = _decided("unqueue?", token, state, step)
                yield Next("reads to give back", _with_client(state, place, decided))
            case ("unqueue?", token, snap, after):
                done = _with_client(state, place, IDLE)
                yield self._commit("gives back", done, snap, after, token=token)

    def _requests(self, state: State) -> Iterator[str]:
        yield from self.scenario.requests
        for dispatch_id, status in self.scenario.callbacks:
            if _posts(state, dispatch_id).executed:
                yield f"callback {status}"

    def _asking(self, state: State, place: int) -> Iterator[Next]:
        for request in self._requests(state):
            step = self.rules.ask(state.record, request)
            if step is not None and self._is_within_bounds(step):
                subject = (request, step.message or ())
                point = _decided("ask?", subject, state, step)
                broken = invariants.of_a_decision(self._record(state), step)
                yield Next(f"{request}: reads", _with_client(state, place, point), broken)

    def _is_within_bounds(self, step: Step) -> bool:
        claim = self.rules.records[step.after].claim
        return claim is None or claim.epoch <= self.scenario.epochs

    def _ask_commits(self, state: State, place: int, point: Point) -> Next:
        _, (request, message), snap, after = point
        pushes = self.scenario.is_transactional
        moved = _with_client(state, place, IDLE if pushes or not message else ("publish", message))
        found = self._commit(f"{request}: commits", moved, snap, after, request=request)
        return self._with_message(found, message) if pushes else found

    def _with_message(self, found: Next, message: Token | tuple[()]) -> Next:
        if not message:
            return found
        return found._replace(state=self._push(found.state, message))

    # The sweep

    def _sweeper_steps(self, state: State) -> Iterator[Next]:
        if state.sweeper != IDLE:
            yield Next("sweeper dies", state._replace(sweeper=IDLE))
        match state.sweeper:
            case ():
                yield from self._sweep_reads(state)
            case ("sweep?", message, snap, after):
                quiet = state._replace(sweeper=IDLE)
                found = self._commit("sweep commits", quiet, snap, after, request="sweep")
                # With a separate broker the message may be lost here, as anywhere.
                yield self._with_message(found, message)

    def _sweep_reads(self, state: State) -> Iterator[Next]:
        step = self.rules.sweep(state.record)
        if step is not None and self._is_within_bounds(step):
            point = _decided("sweep?", step.message or (), state, step)
            broken = invariants.of_a_decision(self._record(state), step)
            yield Next("sweep reads", state._replace(sweeper=point), broken)

    # An engine that can be asked, and the worker that asks

    def _engine_steps(self, state: State) -> Iterator[Next]:
        for dispatch_id, posts in state.posts:
            if posts.executed and not posts.ended:
                ended = _with_posts(state, dispatch_id, posts._replace(ended=True))
                yield Next("the run ends badly", ended)
            if posts.surplus and not posts.executed:
                arrived = _with_posts(state, dispatch_id, posts._replace(executed=True))
                yield Next("a held request arrives", arrived)

    def _asker_steps(self, state: State) -> Iterator[Next]:
        match state.asker:
            case ():
                if not self.rules.may_be_asked(state.record):
                    return
                claim = self._record(state).claim
                answer = self._answer(_posts(state, claim.dispatch_id))
                point = ("answer", state.record, answer)
                yield Next(f"engine says {answer}", state._replace(asker=point))
            case ("answer", asked, answer):
                quiet = state._replace(asker=IDLE)
                yield Next("asker dies", quiet)
                step = self.rules.answered(state.record, asked, answer)
                if step is not None and self._is_within_bounds(step):
                    found = self._commit(
                        f"{answer} counts", quiet, state.record, step.after, request="answer"
                    )
                    new, posts = self.rules.records[step.after], dict(state.posts)
                    broken = invariants.of_an_engines_answer(self._record(state), new, posts)
                    sent = self._with_message(found, step.message or ())
                    yield sent._replace(broken=sent.broken + broken)

    def _answer(self, posts: Posts) -> RunState:
        if not posts.executed:
            return RunState.NOT_FOUND
        return RunState.FAILED if posts.ended else RunState.RUNNING

    # Commits

    def _commit(
        self,
        name: str,
        done: State,
        snap: int,
        after: int,
        *,
        token: Token | None = None,
        request: str = "",
    ) -> Next:
        records = self.rules.records
        stored, read, new = records[done.record], records[snap], records[after]
        keeps = not self.scenario.persists and done.expires
        freed = done._replace(record=after, expires=keeps or self.rules.is_at_rest(after))
        freed = self._count_permit(freed, read, new, request)
        key = (done.record, snap, after, token, request)
        broken = self._judged.get(key)
        if broken is None:
            broken = invariants.of_a_commit(stored, read, new, token, request)
            self._judged[key] = broken
        broken += invariants.of_the_posts(read, new, dict(freed.posts), request)
        return Next(name, self._settled(freed), broken)

    def _settled(self, after: State) -> State:
        if not self.scenario.compares:
            return after

        def keep(point: Point) -> Point:
            # A process whose record has changed starts over, as its commit would fail.
            return _from_the_start(point) if _is_outdated(point, after.record) else point

        return State(
            after.record,
            after.expires,
            after.queue,
            _sorted(map(keep, after.workers)),
            _sorted(map(keep, after.clients)),
            keep(after.sweeper),
            IDLE if _is_stale_absence(after.asker, after.record) else after.asker,
            after.posts,
        )

    def _count_permit(self, state: State, read: Any, new: Any, request: str) -> State:
        lease = read.claim.lease_until if read.claim else None
        due = lease is not None and lease <= NOW
        permitted = invariants.permitted_dispatch(read, new, due, request)
        if permitted is None or self.scenario.policy.window == timedelta.max:
            return state
        posts = _posts(state, permitted)
        return _with_posts(state, permitted, posts._replace(surplus=posts.surplus - 1))

    def _push(self, state: State, token: Token) -> State:
        if len(state.queue) >= self.scenario.queue:
            return state  # lost, as any message may be
        return state._replace(queue=_pushed(state.queue, token))


def _decided(name: str, subject: Any, state: State, step: Step | None) -> Point:
    """The point of a process that read the record and decided on a step; idle if there is nothing to do."""
    return (name, subject, state.record, step.after) if step else IDLE


def _is_stale_absence(point: Point, record: int) -> bool:
    # It counts only for the record that it was asked about (a unit test checks that).
    return point[:1] == ("answer",) and point[2] is RunState.NOT_FOUND and point[1] != record


def _is_outdated(point: Point, record: int) -> bool:
    return len(point) == 4 and point[2] != record


def _from_the_start(point: Point) -> Point:
    match point[0]:
        case "begin?":
            return ("begin", *point[1])
        case "settle?" | "unqueue?":
            return (point[0].removesuffix("?"), point[1])
    return IDLE


def _pushed(queue: tuple[Token, ...], token: Token) -> tuple[Token, ...]:
    return tuple(sorted((*queue, token)))


def _with_worker(state: State, place: int, point: Point) -> State:
    workers = (*state.workers[:place], point, *state.workers[place + 1 :])
    return state._replace(workers=_sorted(workers))


def _with_client(state: State, place: int, point: Point) -> State:
    clients = (*state.clients[:place], point, *state.clients[place + 1 :])
    return state._replace(clients=_sorted(clients))


def _posts(state: State, dispatch_id: str) -> Posts:
    for name, posts in state.posts:
        if name == dispatch_id:
            return posts
    return _NO_POSTS


def _with_posts(state: State, dispatch_id: str, posts: Posts) -> State:
    return state._replace(posts=tuple(sorted({**dict(state.posts), dispatch_id: posts}.items())))


def _sorted(points: Iterable[Point]) -> tuple[Point, ...]:
    # Processes of a kind are interchangeable.
    listed = tuple(points)
    return listed if len(listed) < 2 else tuple(sorted(listed))
