"""What every long-running process has in common: its clock, and the tuning of its interpreter."""

import gc
from datetime import UTC, datetime

_YOUNG_OBJECTS = 20_000


def utc_now() -> datetime:
    """The clock of the processes; rules are given what it says."""
    return datetime.now(UTC)


def freeze_what_stays() -> None:
    """Take all that was loaded out of the garbage collector's sight, and let it look less often.

    Call it once a process is ready to work. What is loaded then stays for good, and a request leaves next
    to no cycles behind: looking through everything every 700 objects was 3 % of the CPU.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG_OBJECTS, 20, 20)
