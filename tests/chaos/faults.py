"""Injects scheduled faults, and restarts killed processes as a supervisor does."""

import threading
import time
from collections import Counter
from contextlib import suppress

import psutil

from devstack.waiting import wait_until
from tasks import queues
from tests.chaos import intruders
from tests.chaos.history import moment
from tests.chaos.schedule import Fault
from tests.chaos.world import World

TICK_SECONDS = 0.03
# More than the clock skew that `takeone doctor` accepts.
CLOCK_JUMP_SECONDS = 2.5
# How long to wait for a message in the queues before they are emptied.
FILL_SECONDS = 1.0
_PAGE = b"<html>Bad Gateway</html>"
GATEWAY_ANSWER = b"HTTP/1.1 502 Bad Gateway\r\nConnection: close\r\n"
GATEWAY_ANSWER += b"Content-Type: text/html\r\nContent-Length: %d\r\n\r\n%s" % (len(_PAGE), _PAGE)


class Injector:
    """Injects a schedule of faults in its own thread, and restarts processes that were killed or crashed."""

    def __init__(self, world: World, faults: list[Fault]) -> None:
        self._world = world
        self._due = sorted(
            [(fault.at, True, fault) for fault in faults]
            + [(fault.at + fault.lasts, False, fault) for fault in faults],
            key=lambda entry: (entry[0], not entry[1]),
        )
        self.fired: Counter[str] = Counter()
        self.emptied_messages = 0
        self.crashed: Counter[str] = Counter()
        self.problems: list[str] = []
        self._down: set[str] = set()
        self._thread = threading.Thread(target=self._run, name="faults", daemon=True)
        self._stop = threading.Event()

    def start(self) -> None:
        self._started = moment()
        self._thread.start()

    def wait(self, seconds: float) -> None:
        """Wait until `seconds` have passed since the start."""
        time.sleep(max(0.0, self._started + seconds - moment()))

    def stop(self) -> None:
        """Wait for the schedule to finish, then undo every fault."""
        self._stop.set()
        self._thread.join(timeout=60)
        for link in self._world.links.values():
            link.restore()
        for log in self._world.logs.values():
            log.resume()
        for clock in self._world.clocks.values():
            clock.set(0.0)
        for process in self._world.processes.values():
            process.resume()
        self._down.clear()
        self.supervise()

    def supervise(self) -> None:
        """Restart each process that ended without a scheduled kill."""
        for name, process in self._world.processes.items():
            if not process.is_running and name not in self._down:
                self.crashed[name.rstrip("12")] += 1
                process.kill()  # its children may still run
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
            except Exception as error:  # the other faults are still to be injected
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
        elif fault.target in intruders.INTRUSIONS:
            if begins:
                intruders.INTRUSIONS[fault.target](self._world)
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
            log.resume()
        elif fault.kind == "log_gone":
            log.close()
        else:
            log.stall()

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
        """Send callbacks to the other web process, as a load balancer does."""
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
            with suppress(TimeoutError):  # the report fails a run in which no message was ever lost
                wait_until(lambda: any(map(redis.llen, keys)), FILL_SECONDS, "a message waits")
            lengths = redis.pipeline(transaction=True)
            for key in keys:
                lengths.llen(key)
            lengths.delete(*keys)
            self.emptied_messages += sum(lengths.execute()[:-1])
