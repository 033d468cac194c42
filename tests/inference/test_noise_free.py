"""Losses with hardly any noise: the error of extrapolation must not vanish with it."""

import numpy as np
import pandas as pd
import pytest

from bayes_optlaws.inference.density import HyperSpace
from bayes_optlaws.inference.importance import importance_draws
from bayes_optlaws.inference.noise_coordinates import NoiseCoordinates
from bayes_optlaws.kernels.hyper import RESOLUTION, noise_variance
from bayes_optlaws.law import OptLaw
from bayes_optlaws.model.priors import Priors
from bayes_optlaws.runs.readers import read_candidates, read_runs

WORLDS, NOISE = 3, 3e-5


def world(rng):
    """A loss: Chinchilla's form, a bowl in log LR whose optimum moves with scale."""
    e, a, b = rng.uniform(1.4, 1.9), rng.uniform(150, 500), rng.uniform(200, 800)
    alpha, beta = rng.uniform(0.28, 0.38), rng.uniform(0.27, 0.37)
    depth, drift = rng.uniform(0.01, 0.05), rng.uniform(-0.5, -0.1)

    def loss(t):
        off = np.log(t["peak_lr"] / 2e-3) - drift * np.log(t["n_params"] / 6e7)
        return e + a * t["n_params"] ** -alpha + b * t["tokens"] ** -beta + depth * off**2

    return loss


def settings(rng, sizes, n):
    size = rng.choice(sizes, n)
    return pd.DataFrame(
        {
            "n_params": size,
            "tokens": size * rng.choice([10.0, 20.0, 40.0], n),
            "batch_tokens": 131072.0,
            "peak_lr": np.exp(rng.uniform(np.log(5e-4), np.log(8e-3), n)),
            "warmup_steps": 200.0,
            "schedule": rng.choice(["cosine", "linear"], n),
        }
    )


def test_intervals_at_four_times_the_size_hold_the_truth():
    inside = []
    for seed in range(WORLDS):
        rng = np.random.default_rng(seed)
        loss = world(rng)
        runs = settings(rng, [3e7, 6e7, 1e8], 80)
        truth = loss(runs)
        noisy = truth * np.exp(NOISE * rng.standard_normal(len(runs)))
        runs = runs.assign(final_loss=noisy, diverged=False)
        far = settings(rng, [4e8], 40)
        law = OptLaw(divergence=False).fit(
            read_runs(runs), method="importance", random_seed=seed, progressbar=False
        )
        p = law.predict(read_candidates(far), kind="mean", prob=0.9)
        truth = loss(far).to_numpy()
        inside.append(np.mean((p["loss_lower"] <= truth) & (truth <= p["loss_upper"])))
    # candidates of one world share their error, so worlds are the sample
    assert np.mean(inside) >= 0.8, inside


@pytest.mark.parametrize("seed", range(2))
def test_losses_without_any_noise_are_fitted_by_importance_sampling(seed):
    rng = np.random.default_rng(seed)
    loss = world(rng)
    runs = settings(rng, [3e7, 6e7, 1e8], 80)
    runs = read_runs(runs.assign(final_loss=loss(runs), diverged=False))
    space = HyperSpace(OptLaw(divergence=False).encode(runs).data, Priors())
    found = importance_draws(NoiseCoordinates(space), rng=np.random.default_rng(seed))
    assert found.good, (found.pareto_k, found.ess)
    noise = np.exp(found.weight @ found.x[:, 0])
    assert noise < 2 * RESOLUTION


def test_the_floor_of_the_noise_is_nothing_to_ordinary_noise():
    variance, _ = noise_variance(np.array([1e-3]), np.zeros(0), np.zeros((1, 1)))
    assert 1e-3 < np.sqrt(variance[0]) < 1e-3 * (1 + 3e-4)
