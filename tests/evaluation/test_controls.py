"""Controls: truths that the model cannot have, and tables in which there is nothing to learn."""

import warnings

import numpy as np
import pandas as pd
import pytest

from bayes_optlaws import baselines
from bayes_optlaws.law import OptLaw

pytestmark = pytest.mark.slow

NOISE = 0.005
"""Of log loss, of the simulated runs."""


def fit(runs: pd.DataFrame, seed: int) -> OptLaw:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return OptLaw(divergence=False).fit(
            runs, draws=300, method="importance", random_seed=seed, progressbar=False
        )


@pytest.mark.parametrize("truth", ["chinchilla", "multi-power-law", "step-law"])
def test_another_law_as_truth_is_covered_beyond_the_table(pocket, truth):
    """Losses of a published law, fitted to the pocket grid, plus noise.

    Fitted on all but the largest models, the law's 90 % intervals of one run hold those of the
    largest; and it is nearer than the constant of a cell would be.
    """
    finished = pocket[~pocket["diverged"]]
    expected = np.log(baselines.get(truth).fit(finished).predict(finished))
    held = (finished["n_params"] == finished["n_params"].max()).to_numpy()
    inside, errors = [], []
    for seed in range(6):
        rng = np.random.default_rng(seed)
        y = expected + NOISE * rng.standard_normal(len(expected))
        runs = finished.assign(final_loss=np.exp(y))
        law = fit(runs[~held], seed)
        candidates = runs[held].drop(columns=["final_loss", "diverged"])
        found = law.predict(candidates)
        lower, upper = found["loss_lower"].to_numpy(), found["loss_upper"].to_numpy()
        inside.append(np.mean((np.exp(y[held]) > lower) & (np.exp(y[held]) < upper)))
        errors.append(np.abs(np.log(found["loss_mean"].to_numpy()) - expected[held]).mean())
    # runs of a table share the error of their scale: six tables are six trials, not six times n
    assert np.mean(inside) > 0.75
    assert np.mean(errors) < 0.25 * np.std(expected)


def test_shuffled_losses_teach_nothing_and_the_law_says_so(pocket):
    """Losses permuted over all runs: no setting and no scale can be better than another."""
    finished = pocket[~pocket["diverged"]]
    log_loss = np.log(finished["final_loss"].to_numpy())
    gains, said = [], []
    for seed in range(4):
        y = np.random.default_rng(seed).permutation(log_loss)
        law = fit(finished.assign(final_loss=np.exp(y)), seed)
        # against the sample's own mean and sd, left out in turn
        n = y.size
        constant = -0.5 * np.log(2 * np.pi * y.var()) - 0.5
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            gains.append(law.loo().elpd / n - constant)
        largest = finished.sort_values(["n_params", "tokens"]).tail(12)
        ranking = law.rank(largest.drop(columns=["final_loss", "diverged"]))
        said.append(float(ranking.table["p_best"].max()))
    assert np.max(gains) < 0.1
    assert np.mean(said) < 0.75
