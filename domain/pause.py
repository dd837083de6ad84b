"""The pause of dispatching: while it is on, claims are taken and wait, and no dispatch is posted."""

from datetime import datetime

from pydantic import BaseModel, ConfigDict


class Pause(BaseModel):
    """Who paused dispatching, when and why; and, once it is over, who ended it and when (UTC)."""

    model_config = ConfigDict(frozen=True, extra="allow")

    paused_at: datetime
    by: str
    reason: str
    resumed_at: datetime | None = None
    resumed_by: str | None = None
    resumed_because: str | None = None

    @property
    def is_on(self) -> bool:
        """Whether it has not been ended."""
        return self.resumed_at is None
