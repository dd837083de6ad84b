"""The client load: threads that run, retry, cancel and read jobs."""

import itertools
import threading
import time
from dataclasses import dataclass, field
from random import Random

from tests.chaos.caller import Caller, Job
from tests.chaos.history import History
from tests.chaos.world import World

THREADS = 12
LIVE_JOBS = 14
FINAL_TIMEOUT_SECONDS = 15.0
_KINDS = {"run": 50, "read": 26, "retry": 20, "cancel": 3}


@dataclass
class ClientPool:
    """The client threads, and the jobs that they created."""

    world: World
    history: History
    jobs: list[Job] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def start(self) -> None:
        self._stop, self._lock = threading.Event(), threading.Lock()
        self._live: list[Job] = []
        self._numbers = itertools.count(1)
        self._threads = [
            threading.Thread(target=self._run, args=(n,), name=f"client{n}", daemon=True)
            for n in range(THREADS)
        ]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Start no more calls. Calls in progress end by their own timeouts."""
        self._stop.set()

    @property
    def is_busy(self) -> bool:
        """Whether calls are still in progress."""
        return any(thread.is_alive() for thread in self._threads)

    def _run(self, nth: int) -> None:
        rng = Random(f"{self.world.seed}:client:{nth}")
        caller = Caller(self.world, self.history, rng)
        while not self._stop.is_set():
            try:
                self._act(caller, rng)
            except Exception as error:  # with fewer clients a run may do too little
                self.problems.append(f"{type(error).__name__}: {error}")
            self._stop.wait(rng.uniform(0.02, 0.35))

    def _act(self, caller: Caller, rng: Random) -> None:
        with self._lock:
            creates = len(self._live) < LIVE_JOBS
            number = next(self._numbers) if creates else 0
            job = None if creates else rng.choice(self._live)
        if job is None:
            self._add(caller.create(number, self._stop))
            return
        with self._lock:
            job.operations += 1
            if job.is_retired and job in self._live:
                self._live.remove(job)
        caller.perform(job, rng.choices(list(_KINDS), list(_KINDS.values()))[0])

    def _add(self, job: Job | None) -> None:
        if job is not None:
            with self._lock:
                self.jobs.append(job)
                self._live.append(job)

    def call_once_more(self, jobs: list[Job], kind: str) -> None:
        """Perform one last operation on each job, spread over as many threads as before."""
        waiting = iter(jobs)
        lock = threading.Lock()

        def work(nth: int) -> None:
            caller = Caller(self.world, self.history, Random(f"{self.world.seed}:{kind}:{nth}"))
            while True:
                with lock:
                    job = next(waiting, None)
                if job is None:
                    return
                caller.perform(job, kind, FINAL_TIMEOUT_SECONDS)

        threads = [threading.Thread(target=work, args=(n,), daemon=True) for n in range(THREADS)]
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + 4 * FINAL_TIMEOUT_SECONDS
        for thread in threads:
            thread.join(timeout=max(0.0, deadline - time.monotonic()))
