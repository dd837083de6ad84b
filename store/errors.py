"""What the store can fail with."""


class StoreError(Exception):
    """Any failure of the store."""


class StoreUnavailable(StoreError):
    """Redis did not answer, or not in time, or not as a writable primary. Try again later.

    A command that was sent may have been carried out all the same.
    """


class StoreContended(StoreError):
    """The record changed under every try to change it. Try again later."""
