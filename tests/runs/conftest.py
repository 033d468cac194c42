"""The plain run table as it is read, for the tests of what must read like it."""

import pytest
from run_tables import plain

from bayes_optlaws.runs.readers import read_runs


@pytest.fixture(scope="package")
def truth():
    return read_runs(plain())
