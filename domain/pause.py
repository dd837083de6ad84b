"""The pause of dispatching: while it is on, claims are made and wait, and no dispatch is posted."""

from pydantic import AwareDatetime

from domain.stored import Stored


class Pause(Stored):
    """Who paused dispatching, when (UTC) and why; and who ended the pause, once it is over."""

    paused_at: AwareDatetime
    by: str
    reason: str
    resumed_at: AwareDatetime | None = None
    resumed_by: str | None = None
    resumed_because: str | None = None

    @property
    def is_on(self) -> bool:
        return self.resumed_at is None
