"""Fixtures shared by all tests, and the rule for tests that need the public tables."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bayes_optlaws.datasets import load
from bayes_optlaws.runs.readers import read_runs

CHECKOUT = Path(__file__).resolve().parent.parent


def _public_folder() -> Path | None:
    """Folder of the public tables: $BAYES_OPTLAWS_DATA, else shared/data beside the checkout."""
    named = os.environ.get("BAYES_OPTLAWS_DATA")
    places = [Path(named)] if named else [CHECKOUT / "shared/data", CHECKOUT.parent / "shared/data"]
    return next((p for p in places if (p / "steplaw").is_dir()), None)


def pytest_report_header(config: pytest.Config) -> str:
    """Say whether the tests on public tables run."""
    folder = _public_folder()
    if folder is None:
        return (
            "public tables: not found, tests marked `public` are deselected "
            "(name their folder by BAYES_OPTLAWS_DATA)"
        )
    return f"public tables: {folder}"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect the tests marked `public` where there is no folder with public tables."""
    if _public_folder() is not None:
        return
    public = [item for item in items if item.get_closest_marker("public")]
    if public:
        config.hook.pytest_deselected(items=public)
        items[:] = [item for item in items if item not in public]


@pytest.fixture(scope="session")
def seed() -> int:
    """Return the seed of everything random in the tests."""
    return 20240904


@pytest.fixture
def rng(seed: int) -> np.random.Generator:
    """Return a fresh generator, the same for every test, so that tests do not depend on order."""
    return np.random.default_rng(seed)


@pytest.fixture(scope="session")
def pocket() -> pd.DataFrame:
    """Return the validated pocket grid; shared by all tests, so copy it before changing it."""
    return read_runs(load("pocket"))


@pytest.fixture(scope="session")
def small_law(pocket: pd.DataFrame):
    """Return a law fitted once to the pocket grid without discrepancy; shared, do not refit it.

    The quickest fit that passes the convergence gate: for tests of what is done with a fitted
    law, not of the statistics.
    """
    from bayes_optlaws.law import OptLaw  # here, so that other tests do not load PyMC

    law = OptLaw(transfer=False)
    return law.fit(pocket, draws=400, tune=200, chains=4, random_seed=1, progressbar=False)


@pytest.fixture(scope="session")
def public_folder() -> Path:
    """Return the folder of the public tables; for tests marked `public` only."""
    folder = _public_folder()
    if folder is None:
        raise RuntimeError("a test that uses public_folder must be marked `public`")
    return folder
