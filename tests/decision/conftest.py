"""Laws of the pocket grid without its largest block, for tests of designs."""

import pytest
from design_oracle import fixed_law

import bayes_optlaws as bo


@pytest.fixture(scope="module")
def split():
    """Pocket runs below the largest block, and that block's planned runs."""
    runs = bo.read_runs(bo.datasets.load("pocket"))
    big = runs["n_params"] > 2e5
    plan = runs[~runs["diverged"]].drop(columns=["final_loss", "diverged"])
    plan = plan.set_index("run_id", drop=False).rename_axis(None)
    return runs[~big], plan, plan[plan["n_params"] > 2e5]


@pytest.fixture(scope="module")
def plain(split):
    return fixed_law(split[0], transfer=False)


@pytest.fixture(scope="module")
def rich(split):
    return fixed_law(split[0], transfer=True, n_draws=60)
