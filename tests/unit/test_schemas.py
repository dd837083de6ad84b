"""Values that the schemas return; what they refuse is tested over HTTP."""

import time

import marshmallow as ma
import pytest

from api import schemas
from api.schemas import JOB_QUERY

SCHEMAS = [name for name, value in vars(schemas).items() if isinstance(value, ma.Schema)]


@pytest.mark.parametrize(("wait", "seconds"), [("0", 0), ("54", 54), ("55", 55), ("60", 55)])
def test_a_long_poll_ends_before_a_proxy_times_out(wait: str, seconds: int) -> None:
    assert JOB_QUERY.load({"wait": wait})["wait"] == seconds


def cpu_seconds(schema: ma.Schema, text: str) -> float:
    """The CPU time that the schema needs to refuse a body with this text in every field: the least of three."""

    def refuse() -> float:
        began = time.process_time()
        assert schema.validate(dict.fromkeys(schema.fields, text))
        return time.process_time() - began

    return min(refuse() for _ in range(3))


@pytest.mark.parametrize("unit", ["a", " ", "1", "a:", "1-", "a "])
@pytest.mark.parametrize("name", SCHEMAS)
def test_a_long_text_is_refused_in_linear_time(name: str, unit: str) -> None:
    """A regular expression that backtracks would hold up all threads of the process."""
    schema = getattr(schemas, name)
    short, long = (cpu_seconds(schema, unit * length + "\n") for length in (2_000, 32_000))
    assert long < 64 * short  # linear: 16 x, quadratic: 256 x
