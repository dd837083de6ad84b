"""The base class of every stored model."""

from pydantic import BaseModel, ConfigDict


class Stored(BaseModel):
    """A frozen model: a change is a new value (`model_copy`), which the store commits.

    Unknown fields belong to a later release, and are kept when a record is changed.
    """

    model_config = ConfigDict(frozen=True, extra="allow")
