"""Load tests are about ratios within one run: the machine that runs them is nobody's in particular."""

import pytest

pytest.register_assert_rewrite("tests.load.measuring")
