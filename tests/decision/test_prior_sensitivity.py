"""Which answers move with which prior, beside a fit with another prior."""

from dataclasses import replace

import numpy as np
import pytest

from bayes_optlaws.cli import demo
from bayes_optlaws.decision.prior_sensitivity import GROUPS, POWERS, THRESHOLD, prior_sensitivity
from bayes_optlaws.inference.groups import log_priors
from bayes_optlaws.runs.readers import read_candidates


@pytest.fixture(scope="module")
def table():
    return read_candidates(demo.candidates())


@pytest.fixture(scope="module")
def found(small_law, table):
    return prior_sensitivity(small_law.fitted, table)


def test_weights_are_those_of_the_scaled_prior(small_law, table, found):
    law = small_law.fitted
    drawn = law.draw_loss(table, "mean", np.random.default_rng(0), max_draws=law.draws.n)
    price = found.table.attrs.get("price")
    assert price is None
    loss = drawn.loss[:, list(table.index).index(found.choice)]
    risk = drawn.risk[:, list(table.index).index(found.choice)]
    assert abs(found.loss - loss.mean()) < 10 * risk.mean() + 1e-3
    log_prior = sum(log_priors(law)[n] for n in GROUPS["noise"] if n in log_priors(law))
    for word, power in zip(("weaker", "stronger"), POWERS, strict=True):
        weight = np.exp((power - 1) * (log_prior - log_prior.max()))
        weight /= weight.sum()
        expected = found.loss + weight @ loss - loss.mean()
        assert abs(found.table.loc["noise", f"loss_{word}"] - expected) < 1e-3


def test_a_prior_without_power_moves_nothing_and_one_that_decides_moves(small_law, table, found):
    assert "exponents" not in found.table.index  # equal weights: no power changes them
    assert "drift" not in found.table.index  # the law has no discrepancy
    assert set(found.table.index) <= set(GROUPS)
    assert (found.table[["index_p_best", "index_loss"]] >= 0).all(axis=None)
    moves = found.table[["index_p_best", "index_loss"]].max(axis=1) >= THRESHOLD
    np.testing.assert_array_equal(found.table["moves"], moves)
    # a prior as informative as all runs: the draws' own log density of the loss
    said = replace(found, table=found.table.assign(moves=True)).sentences
    assert said[0].startswith("The answer moves with the prior of: sizes of the coefficients (P(")
    still = replace(found, table=found.table.assign(moves=False)).sentences
    assert still[0].startswith("Neither P(best)")
    assert found.choice in repr(found) and found.choice in found._repr_html_()
