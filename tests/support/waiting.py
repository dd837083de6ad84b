"""Wait for a fact, with a limit; the same one that the demo uses."""

from demo.waiting import wait_until

__all__ = ["wait_until"]
