"""A local correction of what a change of stage does: found where it is, and only there."""

from dataclasses import replace

import numpy as np
import pytest

from bayes_optlaws import datasets
from bayes_optlaws.inference.stages import read_stages
from studies import stage_local
from studies.stage_prior import BROAD, measured


@pytest.fixture(scope="module")
def stage_runs():
    return read_stages(datasets.load("pocket-stages"))


@pytest.fixture(scope="module")
def found(small_law, stage_runs):
    return measured(small_law.fitted, stage_runs, BROAD, 0)


@pytest.mark.parametrize("sd", [0.0, 0.02])
def test_a_local_correction_is_found_where_it_is(sd, found, stage_runs, monkeypatch, rng):
    mean, cov, z, data, table = found
    n = mean.size
    shape = stage_local.kernel(table)
    root = np.linalg.cholesky(shape + 1e-9 * np.eye(n))
    scores = mean + np.linalg.cholesky(cov + 1e-12 * np.eye(n)) @ rng.standard_normal(n)
    truth = scores + rng.standard_normal(data.which_set.max() + 1)[data.which_set]
    truth += sd * root @ rng.standard_normal(n) + 0.002 * rng.standard_normal(n)
    world = (mean, cov, z, replace(data, mean=truth), table)
    monkeypatch.setattr(stage_local, "measured", lambda *_: world)
    judged = stage_local.judge(None, stage_runs, sds=(0.0, 0.02)).xs("others known")
    lead, error = judged.loc[0.02, ["lead", "lead_se"]]
    assert (lead > 2 * error) == (sd > 0)
    if not sd:
        assert lead < 0


def test_a_set_is_predicted_by_one_gaussian_of_all(found):
    """All sets known: the same from the joint covariance with free levels of the sets."""
    mean, cov, z, data, table = found
    local = 0.003**2 * stage_local.kernel(table)
    label = int(data.which_set[-1])
    new, old = data.which_set == label, data.which_set != label
    centre, spread = stage_local.predict_set(mean, cov, z, local, data, label, blind=False)
    # a level of sd 10 nats in every set stands for contrasts
    known = replace(data, mean=data.mean[old], runs=data.runs[old], which_set=data.which_set[old])
    same = data.which_set[:, None] == data.which_set
    between = stage_local.StageChange.shipped().between
    every = cov + local + (0.05**2 + between**2 * same) * (z @ z.T)
    scales = stage_local.learn_scales(mean[old], every[np.ix_(old, old)], known, BROAD)
    noise = scales.quantile("deviation", 0.5) ** 2 + scales.quantile("noise", 0.5) ** 2 / data.runs
    every = every + np.diag(noise)
    level = every[np.ix_(old, old)] + 10.0**2 * same[np.ix_(old, old)]
    gain = np.linalg.solve(level, every[np.ix_(old, new)]).T
    np.testing.assert_allclose(
        centre, mean[new] + gain @ (data.mean - mean)[old], rtol=0, atol=1e-5
    )
    np.testing.assert_allclose(
        spread, every[np.ix_(new, new)] - gain @ every[np.ix_(old, new)], rtol=0, atol=1e-8
    )
