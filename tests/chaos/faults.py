"""Carries out a schedule of faults on what runs, and restarts what was killed, as a supervisor does."""

import threading
import time
from collections import Counter
from contextlib import suppress

import psutil

from devstack.waiting import wait_until
from tasks import queues
from tests.chaos import strangers
from tests.chaos.history import moment
from tests.chaos.schedule import Fault
from tests.chaos.world import World

TICK_SECONDS = 0.03
# Further apart than `takeone doctor` lets clocks be.
CLOCK_JUMP_SECONDS = 2.5
# How long queues that are to be emptied may take to have a message in them.
FILL_SECONDS = 1.0
_PAGE = b"<html>Bad Gateway</html>"
GATEWAY_ANSWER = b"HTTP/1.1 502 Bad Gateway\r\nConnection: close\r\n"
GATEWAY_ANSWER += b"Content-Type: text/html\r\nContent-Length: %d\r\n\r\n%s" % (len(_PAGE), _PAGE)


class Injector:
    """Carries out a schedule in a thread of its own, and restarts what was killed or died."""

    def __init__(self, world: World, faults: list[Fault]) -> None:
        self._world = world
        self._due = sorted(
            [(fault.at, True, fault) for fault in faults]
            + [(fault.at + fault.lasts, False, fault) for fault in faults],
            key=lambda entry: (entry[0], not entry[1]),
        )
        self.fired: Counter[str] = Counter()
        self.emptied_messages = 0
        self.died_by_themselves: Counter[str] = Counter()
        self.problems: list[str] = []
        self._down: set[str] = set()
        self._thread = threading.Thread(target=self._run, name="faults", daemon=True)
        self._stop = threading.Event()

    def start(self) -> None:
        """Begin."""
        self._started = moment()
        self._thread.start()

    def wait(self, seconds: float) -> None:
        """Wait for the end of the time that the run is given."""
        time.sleep(max(0.0, self._started + seconds - moment()))

    def stop(self) -> None:
        """End: wait for the schedule, then let everything run."""
        self._stop.set()
        self._thread.join(timeout=60)
        for link in self._world.links.values():
            link.restore()
        for log in self._world.logs.values():
            log.read_on()
        for clock in self._world.clocks.values():
            clock.set(0.0)
        for process in self._world.processes.values():
            process.resume()
        self._down.clear()
        self.supervise()

    def supervise(self) -> None:
        """Start again what is not running and not to be down, as any supervisor does."""
        for name, process in self._world.processes.items():
            if not process.is_running and name not in self._down:
                self.died_by_themselves[name.rstrip("12")] += 1
                process.kill()  # children that it may have left
                process.start()

    def _run(self) -> None:
        while self._due or not self._stop.is_set():
            elapsed = moment() - self._started
            try:
                if self._due and self._due[0][0] <= elapsed:
                    self._act(*self._due.pop(0)[1:])
                else:
                    self.supervise()
                    self._stop.wait(TICK_SECONDS)
            except Exception as error:  # a fault that cannot be injected must not end the others
                self.problems.append(f"{type(error).__name__}: {error}")

    def _act(self, begins: bool, fault: Fault) -> None:
        if fault.target in self._world.links:
            self._act_on_link(begins, fault)
        elif fault.target == "broker":
            self._empty_queues(begins)
        elif fault.target.endswith(".log"):
            self._act_on_log(begins, fault)
        elif fault.target.endswith(".clock"):
            self._act_on_clock(begins, fault)
        elif fault.target in strangers.DEEDS:
            if begins:
                strangers.DEEDS[fault.target](self._world)
        elif fault.kind == "kill_child":
            self._kill_child(begins, fault)
        else:
            self._act_on_process(begins, fault)
        self.fired[fault.name] += begins

    def _act_on_link(self, begins: bool, fault: Fault) -> None:
        link = self._world.links[fault.target]
        if not begins:
            if fault.kind in ("lose_answers", "forget"):
                link.cut()
            link.restore()
            return
        {
            "cut": link.cut,
            "refuse": link.refuse,
            "hang": link.stall,
            "forget": link.forget,
            "gateway_page": lambda: link.respond_with(GATEWAY_ANSWER),
            "lose_answers": link.stall_answers,
        }[fault.kind]()

    def _act_on_log(self, begins: bool, fault: Fault) -> None:
        log = self._world.logs[fault.target]
        if not begins:
            log.read_on()
        elif fault.kind == "log_gone":
            log.go()
        else:
            log.stand_still()

    def _act_on_clock(self, begins: bool, fault: Fault) -> None:
        jump = CLOCK_JUMP_SECONDS if fault.kind == "clock_ahead" else -CLOCK_JUMP_SECONDS
        self._world.clocks[fault.target].set(jump if begins else 0.0)

    def _act_on_process(self, begins: bool, fault: Fault) -> None:
        process = self._world.processes[fault.target]
        if fault.kind != "kill":
            process.pause() if begins else process.resume()
        elif begins:
            self._down.add(fault.target)
            process.kill()
            self._route_callbacks_around(fault.target)
        else:
            self._down.discard(fault.target)
            process.start()

    def _route_callbacks_around(self, killed: str) -> None:
        """What a load balancer does: callbacks go to a web process that is there."""
        other = next(web for web in self._world.webs if web.name != killed)
        self._world.links["orchestrator->web"].target_port = int(other.port or 0)

    def _kill_child(self, begins: bool, fault: Fault) -> None:
        if begins:
            for child in psutil.Process(self._world.processes[fault.target].pid).children():
                child.kill()

    def _empty_queues(self, begins: bool) -> None:
        if begins:
            for worker in self._world.workers:
                worker.pause()
            return
        try:
            self._delete_queues()
        finally:
            for worker in self._world.workers:
                worker.resume()

    def _delete_queues(self) -> None:
        keys = queues.queue_keys(queues.queue_names(self._world.settings))
        with self._world.redis.client() as redis:
            with suppress(TimeoutError):  # a run in which none was ever lost proves too little
                wait_until(lambda: any(map(redis.llen, keys)), FILL_SECONDS, "a message waits")
            lengths = redis.pipeline(transaction=True)
            for key in keys:
                lengths.llen(key)
            lengths.delete(*keys)
            self.emptied_messages += sum(lengths.execute()[:-1])
