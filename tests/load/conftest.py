"""Load tests are about ratios within one run: they may run on any machine."""

import pytest

pytest.register_assert_rewrite("tests.load.measuring")
