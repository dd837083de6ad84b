"""The Prefer header of RFC 7240, as far as run and retry honour it: respond-async and wait=N."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class WaitPreference:
    """How long to wait (seconds), and what to say in Preference-Applied (None: nothing was asked)."""

    seconds: float
    applied: str | None


def parse_prefer(header: str | None, most_seconds: float) -> WaitPreference:
    """Read a Prefer header. What is not understood is passed over, as the RFC asks (section 2)."""
    if not header:
        return WaitPreference(most_seconds, None)
    wait: float | None = None
    asynchronous = False
    for preference in header.split(","):
        name, _, value = preference.partition(";")[0].partition("=")
        name, value = name.strip().lower(), value.strip().strip('"')
        if name == "respond-async":
            asynchronous = True
        # The first of several counts (section 2).
        if name == "wait" and wait is None and value.isascii() and value.isdigit():
            wait = min(float(value[:9]), most_seconds)
    if wait is None:
        return (
            WaitPreference(0, "respond-async")
            if asynchronous
            else WaitPreference(most_seconds, None)
        )
    # Both together: wait, and answer 202 only if it takes longer than that (section 4.3).
    return WaitPreference(wait, f"{'respond-async, ' * asynchronous}wait={wait:g}")
