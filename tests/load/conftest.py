"""Load tests compare times within one run, never with fixed values, so that they pass on any machine."""

import pytest

pytest.register_assert_rewrite("tests.load.measuring")
