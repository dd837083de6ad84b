"""Values that the schemas return; what they refuse is tested over HTTP."""

import pytest

from api.schemas import JOB_QUERY


@pytest.mark.parametrize(("wait", "seconds"), [("0", 0), ("54", 54), ("55", 55), ("60", 55)])
def test_a_long_poll_ends_before_a_proxy_times_out(wait: str, seconds: int) -> None:
    assert JOB_QUERY.load({"wait": wait})["wait"] == seconds
