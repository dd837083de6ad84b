"""The acceptance tests' own helpers explain their failures as the tests themselves do."""

import pytest

pytest.register_assert_rewrite("tests.acceptance.outcomes", "tests.acceptance.stored")
