"""What the request schemas make of what they accept; what they refuse is tested over HTTP."""

import pytest

from api.requests import JOB_QUERY


@pytest.mark.parametrize(("asked", "granted"), [("0", 0), ("54", 54), ("55", 55), ("60", 55)])
def test_a_long_poll_ends_before_a_proxy_gives_up(asked: str, granted: int) -> None:
    assert JOB_QUERY.load({"wait": asked})["wait"] == granted
