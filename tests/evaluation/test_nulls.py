"""Measures against their null: on simulated predictions whose truth is known."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import kstest

from bayes_optlaws.evaluation import metrics
from bayes_optlaws.evaluation.nulls import Judge, cell_scores

LEVEL, NOISE = 0.05, 0.01


def predictive(rng, n_cells=4, size=12, n_draws=600):
    """Joint draws of runs whose cells share a level error, and the labels of the cells."""
    cells = np.repeat(np.arange(n_cells), size)
    centre = rng.normal(1.0, 0.1, cells.size)

    def draw(n):
        level = LEVEL * rng.normal(size=(n, n_cells))[:, cells]
        return np.exp(centre + level + NOISE * rng.normal(size=(n, cells.size)))

    return draw, draw(n_draws), cells


def test_measures_are_those_of_the_metrics(rng):
    draw, draws, cells = predictive(rng)
    y = draw(1)[0]
    found = Judge(draws, cells).measure(y)
    expected = metrics.summarize(y, draws, cells)
    same = ["relative_error", "regret", "log_score", "pair_accuracy", "pair_calibration_error"]
    for name in (*same, "coverage_50", "coverage_90", "coverage_95"):
        assert found[name] == pytest.approx(expected[name], rel=1e-9), name
    assert found["pair_gap"] == pytest.approx(expected["pair_said"] - expected["pair_accuracy"])


def test_log_score_takes_conditional_moments(rng):
    draw, draws, cells = predictive(rng, n_draws=300)
    mean, sd = np.log(draw(300)), np.full((300, cells.size), NOISE)
    y = draw(1)[0]
    found = Judge(draws, cells, cond_mean=mean, cond_sd=sd).measure(y)["log_score"]
    assert found == pytest.approx(metrics.log_score(y, cond_mean=mean, cond_sd=sd).mean())
    with pytest.raises(ValueError, match="belong together"):
        Judge(draws, cells, cond_mean=mean)


def test_p_values_of_right_predictions_are_uniform(rng):
    """Though runs of a cell share their error, which makes binomial intervals far too narrow."""
    draw, draws, cells = predictive(rng)
    judge = Judge(draws, cells)
    null = judge.null(n=400)
    truths = pd.DataFrame([judge.measure(y) for y in draw(400)])
    for name in ("coverage_50", "relative_error", "log_score", "bias", "cell_z_rms", "regret"):
        gap = kstest(truths[name], null[name]).statistic
        assert gap < 1.95 * np.sqrt(2 / 400), name  # one in a thousand
    assert truths["coverage_50"].std() > 2 * np.sqrt(0.25 / cells.size)


def test_an_error_that_cells_share_is_not_taken_for_many(rng):
    """All runs of one cell off by two sds of the level: seen once, not twelve times."""
    draw, draws, cells = predictive(rng, n_cells=1)
    centre = np.log(draws).mean(axis=0)
    y = np.exp(centre + 1.5 * LEVEL)
    found = Judge(draws, cells).against_null(y)
    assert found.loc["coverage_50", "observed"] == 0.0
    assert found.loc["coverage_50", "p"] > 0.05 and found.loc["bias", "p"] > 0.05
    off = Judge(draws, cells).against_null(np.exp(centre + 5 * LEVEL))
    assert off.loc[["bias", "log_score", "cell_z_max"], "p"].max() < 0.03


def test_intervals_too_wide_are_seen(rng):
    draw, draws, cells = predictive(rng, n_cells=40, size=3)
    centre = np.log(draws).mean(axis=0)
    wide = np.exp(centre + 3 * (np.log(draws) - centre))
    found = Judge(wide, cells).against_null(draw(1)[0])
    assert found.loc[["coverage_50", "cell_z_rms"], "p"].max() < 0.02
    assert found.loc["coverage_50", "observed"] > found.loc["coverage_50", "null_95"]
    assert (found["null_01"] <= found["null_05"]).all()
    assert (found["null_95"] <= found["null_99"]).all()


def test_cell_scores_are_standard_normal_for_right_predictions(rng):
    draw, draws, cells = predictive(rng, n_cells=60, size=3)
    found = cell_scores(draw(1)[0], draws, cells)
    assert (found["n_runs"] == 3).all() and len(found) == 60
    assert abs(found["z"].mean()) < 4 / np.sqrt(60)
    assert abs(found["z"].std() - 1) < 4 / np.sqrt(120)
    assert found["sd"].to_numpy() == pytest.approx(np.hypot(LEVEL, NOISE / np.sqrt(3)), rel=0.2)
    assert kstest(found["p_below"], "uniform").pvalue > 1e-3


def test_an_infinite_draw_has_no_null():
    with pytest.raises(ValueError, match="draws of run 1 are infinite"):
        Judge([[1.0, np.inf], [1.0, 2.0]], ["a", "a"])
