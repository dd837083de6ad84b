"""The service's time limits in a chaos run, and the healing time that follows from them."""

from dataclasses import dataclass

from domain.reconcile import ASK_LEASE, LAST_REPORT
from orchestrators.registry import dispatch_policy
from settings import Settings

RUN_WAIT_SECONDS = 4.0
ORCHESTRATOR_TIMEOUT_SECONDS = 2.0
HOLD_SECONDS = 3.0
IDEMPOTENCY_SECONDS = 86_400
# Longer than any fault lasts, so that few jobs are listed as silent by mistake.
SILENT_SECONDS = 9.0
CLAIM_LEASE_SECONDS = 2.0
SWEEP_SECONDS = 0.3

# A claim's lease doubles with each lost message: 2, 4, 8, 16 seconds.
MOST_LOST_MESSAGES = 3
# An execution reports six steps, each after some work, with one retry pause at the end of an outage.
EXECUTION_SECONDS = 10.0
# For the processes that were killed last, on a busy machine.
RESTART_SECONDS = 10.0

SETTINGS = {
    "TAKEONE_RUN_WAIT_SECONDS": str(RUN_WAIT_SECONDS),
    "TAKEONE_ORCHESTRATOR_TIMEOUT_SECONDS": str(ORCHESTRATOR_TIMEOUT_SECONDS),
    "TAKEONE_ORCHESTRATOR_CONNECT_TIMEOUT_SECONDS": "0.5",
    "TAKEONE_UNKNOWN_HOLD_SECONDS": str(HOLD_SECONDS),
    "TAKEONE_CLAIM_LEASE_SECONDS": str(CLAIM_LEASE_SECONDS),
    "TAKEONE_SWEEP_INTERVAL_SECONDS": str(SWEEP_SECONDS),
    "TAKEONE_FIRST_REPORT_SECONDS": str(SILENT_SECONDS),
    "TAKEONE_SILENT_AFTER_SECONDS": str(SILENT_SECONDS),
    "TAKEONE_REDIS_TIMEOUT_SECONDS": "1",
    "TAKEONE_WORKER_CONCURRENCY": "16",
    "TAKEONE_WEB_THREADS": "64",
    "TAKEONE_WEB_WAIT_SLOTS": "48",
    "TAKEONE_BREAKER_FAILURES": "6",
    "TAKEONE_BREAKER_SECONDS": "1",
    "TAKEONE_LOG_FORMAT": "json",
}


@dataclass(frozen=True)
class HealingLimit:
    """The longest time that healing may take, by its parts in seconds."""

    parts: dict[str, float]

    @property
    def seconds(self) -> float:
        return sum(self.parts.values())

    def __str__(self) -> str:
        sums = " + ".join(f"{seconds:g} {name}" for name, seconds in self.parts.items())
        return f"{self.seconds:g} s = {sums}"


def healing_limit(settings: Settings) -> HealingLimit:
    """Return how long a claim may take to settle after the last fault, in the worst case."""
    policy = dispatch_policy(settings)
    parts = {
        "restart": RESTART_SECONDS,
        "claim lease": policy.claim_lease.total_seconds() * 2**MOST_LOST_MESSAGES,
        "sending lease": policy.send_lease.total_seconds(),
        "hold": policy.unknown_hold.total_seconds() if policy.unknown_hold else 0,
        "sweeps": 3 * settings.sweep_interval_seconds,
        "execution": EXECUTION_SECONDS,
        "silence": SILENT_SECONDS,
    }
    if policy.can_be_asked:
        # A failed run has to be reported by two queries; the answer to one may be lost.
        parts["queries"] = SILENT_SECONDS + (LAST_REPORT + 2 * ASK_LEASE).total_seconds()
    if policy.window is not None or policy.can_be_asked:
        # An unknown outcome is queried or sent again after 1, 2, 4, ... seconds, at most 60, each ± 25 %.
        parts["pause before another try"] = 75.0
    return HealingLimit(parts)
