"""What the store can fail with."""

from domain.claim import FencingToken


class StoreError(Exception):
    """Any failure of the store."""


class StoreUnavailable(StoreError):
    """Redis did not answer in time, or not as a writable primary. Try again later.

    A command that was sent may have been carried out all the same.
    """


class StoreContended(StoreError):
    """The record changed under every attempt to change it. Try again later."""


class QueueUnavailable(StoreError):
    """The broker did not confirm the message for the claim of `token`. It may have landed all the same."""

    def __init__(self, token: FencingToken) -> None:
        super().__init__("the broker did not take the message")
        self.token = token


class DispatchingPaused(StoreError):
    """Nothing was committed: the change would have begun a post while dispatching is paused."""


class RecordUnreadable(StoreError):
    """This release cannot read a stored record: a later release wrote it, or it is corrupt."""

    def __init__(self, record_id: str) -> None:
        super().__init__("a record cannot be read")
        self.record_id = record_id
