"""Joint posterior of pool runs and candidates, against dense conditioning."""

import numpy as np
import pandas as pd
import pytest
from design_oracle import condition
from laws import with_neighbours

from bayes_optlaws.decision.design import _slim
from bayes_optlaws.decision.design_covariance import PooledCovariance
from bayes_optlaws.decision.design_joint import Joint
from bayes_optlaws.runs.readers import read_candidates


@pytest.mark.parametrize("kind", ["plain", "rich"])
def test_joint_posterior_equals_dense_conditioning(kind, split, request):
    """Also at a scale that was never seen, where pool and candidates share what is unknown, and of
    a family that was never seen, whose effect changes over scales.
    """
    law = request.getfixturevalue(kind)
    far = split[2].iloc[:4].copy()
    far["n_params"] *= 2
    other = pd.concat([split[1].iloc[[3, 60]], far.iloc[:2]])
    other = read_candidates(other[["n_params", "tokens", "batch_tokens", "peak_lr", "warmup_steps"]]
                            .assign(schedule="cosine"))  # fmt: skip
    assert np.abs(law.encoding.discrepancy.unseen(other)).max() > 0.1
    table = pd.concat([split[1].iloc[[0, 40, 100]], split[2].iloc[::6], far, other])
    joint = Joint(law, law.draws.take(np.array([0, 7])))
    targets = joint.targets(_slim(table))
    block = joint.block(_slim(table), targets)
    for i, s in enumerate((0, 7)):
        mean, cov = condition(law, s, table)
        tolerance = 2e-3 * np.sqrt(np.outer(np.diag(cov), np.diag(cov)))
        assert np.all(np.abs(targets.mean[i] - mean) < 2e-5)
        assert np.all(np.abs(targets.cov[i] - cov) < tolerance)
        assert np.all(np.abs(block.cov[:, i] - targets.cov[i]) < tolerance)
        assert np.all(np.abs(block.mean[:, i] - targets.mean[i]) < 1e-5)
        assert np.all(np.abs(block.var[:, i] / np.diag(targets.cov[i]) - 1) < 2e-3)


def test_residuals_of_neighbours_correct_the_joint_posterior(rich, split):
    """Means and covariances are those of the dense posterior of rows and runs, mapped linearly."""
    law = with_neighbours(rich)
    table = split[1].iloc[[0, 7, 40, 100]].copy()
    table["peak_lr"] *= 1.2
    table = pd.concat([_slim(table), _slim(split[2].iloc[::9])])
    joint, s = Joint(law, law.draws.take(np.array([3]))), 3
    targets = joint.targets(table)
    found = law.neighbours.at(table)
    runs = law.encoding.finished
    plain = law.predictor(law.draws.take(np.array([s]))).without_neighbours()
    weight = found.matrix(np.arange(len(runs))).toarray()
    weight *= plain.unexplained_sd(table).T / plain.unexplained_sd(runs)
    assert np.abs(weight[:4]).max() > 0.1 and np.abs(weight[4:]).max() < np.abs(weight[:4]).max()
    mean, cov = condition(law, s, pd.concat([table, _slim(runs)]))
    change = np.hstack([np.eye(len(table)), -weight])
    y = np.log(runs["final_loss"].to_numpy())
    mean, cov = change @ mean + weight @ y, change @ cov @ change.T
    # of what the local functions leave out, neighbours tell as much as of the noise
    d, left = law.encoding.discrepancy, np.sqrt(found.left)
    points = d.local_points(table)
    phi = d.local_functions(points)
    missed = d.local_missed(points, phi, points, phi) * (1 - np.outer(left, left))
    cov -= law.draws.hyper["local_sd"][s] ** 2 * missed
    tolerance = 5e-3 * np.sqrt(np.outer(np.diag(cov), np.diag(cov)))
    np.testing.assert_allclose(targets.mean[0], mean, rtol=0, atol=2e-5)
    assert np.all(np.abs(targets.cov[0] - cov) < tolerance)
    block = joint.block(table, targets)
    np.testing.assert_allclose(block.mean[:, 0], mean, rtol=0, atol=3e-5)
    assert np.all(np.abs(block.cov[:, 0] - cov) < tolerance)
    np.testing.assert_allclose(block.var[:, 0], np.diag(cov), rtol=5e-3)
    np.testing.assert_allclose(
        targets.noise[0], plain.noise_sd(table)[0] ** 2 * found.left, rtol=1e-9
    )
    whole = PooledCovariance(joint, table)
    np.testing.assert_allclose(whole.columns(np.arange(len(table))), targets.cov[0], rtol=1e-6)
