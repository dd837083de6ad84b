"""What every stored model has in common."""

from pydantic import BaseModel, ConfigDict


class Stored(BaseModel):
    """A frozen model: a change is a new value (`model_copy`), and only a commit of the store makes it true.

    Fields that are not known here are a later release's, and are kept when a record is changed.
    """

    model_config = ConfigDict(frozen=True, extra="allow")
