"""Losses with hardly any noise: the error of extrapolation must not vanish with it."""

import numpy as np
import pandas as pd

from bayes_optlaws.law import OptLaw
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
