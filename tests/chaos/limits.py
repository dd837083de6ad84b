"""The times that a chaos run is held to: the service's settings, and the healing that follows from them."""

from dataclasses import dataclass

from domain.reconcile import ASK_LEASE, LAST_REPORT
from orchestrators.registry import dispatch_policy
from settings import Settings

RUN_WAIT_SECONDS = 4.0
ORCHESTRATOR_TIMEOUT_SECONDS = 2.0
HOLD_SECONDS = 3.0
IDEMPOTENCY_SECONDS = 86_400
# Longer than a fault lasts, so that most jobs which count as silent are.
SILENT_SECONDS = 9.0
CLAIM_LEASE_SECONDS = 2.0
SWEEP_SECONDS = 0.3

# A claim's lease doubles with each message that was lost: 2, 4, 8, 16 seconds.
MOST_LOST_MESSAGES = 3
# An execution reports six steps, each after some work and, at the end of an outage, one pause.
EXECUTION_SECONDS = 10.0
# Processes that were killed last of all start again, on a busy machine.
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
    """How long healing may take without anyone's help, and what that is made of."""

    parts: dict[str, float]

    @property
    def seconds(self) -> float:
        """The limit."""
        return sum(self.parts.values())

    def __str__(self) -> str:
        sums = " + ".join(f"{seconds:g} {name}" for name, seconds in self.parts.items())
        return f"{self.seconds:g} s = {sums}"


def healing_limit(settings: Settings) -> HealingLimit:
    """Return the limit: the longest way of a claim from the end of the last fault to its end."""
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
        # That a run ended badly counts when it was said twice; an ask may be lost.
        parts["asking"] = SILENT_SECONDS + (LAST_REPORT + 2 * ASK_LEASE).total_seconds()
    if policy.window is not None or policy.can_be_asked:
        # An unknown outcome is asked about or sent again after 1, 2, 4, ... seconds, a minute at the most, each
        # a quarter more or less.
        parts["pause before trying again"] = 75.0
    return HealingLimit(parts)
