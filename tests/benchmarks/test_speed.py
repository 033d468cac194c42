"""How fast: against the naive model on the pocket grid, and against the number of runs.

`make benchmark` runs these and prints their tables (``-s`` shows them while they run).
"""

import time

import numpy as np
import nutpie
import pandas as pd
import pytest
from arviz_stats.base import array_stats

from bayes_optlaws import sampling
from bayes_optlaws.explicit import naive_model
from bayes_optlaws.law import OptLaw

NAIVE_SECONDS = 120
CHAINS, DRAWS, TUNE = 4, 500, 300
pytestmark = [pytest.mark.benchmark, pytest.mark.filterwarnings("default")]


def least_ess(values):
    """Least bulk ESS over the columns of (chains, draws, k) that move."""
    return min(
        float(array_stats.ess(values[..., j], method="bulk"))
        for j in range(values.shape[2])
        if np.ptp(values[..., j]) > 0
    )


def fit(data, priors, seed=1):
    """Seconds and draws of one fit."""
    start = time.perf_counter()
    found = sampling.sample(
        data, priors, draws=DRAWS, tune=TUNE, chains=CHAINS, random_seed=seed, progressbar=False
    )
    return time.perf_counter() - start, found.draws


def test_effective_draws_per_second_against_the_naive_model(pocket):
    """The paper's 625 combinations; neither side's compilation counts."""
    law = OptLaw(transfer=False, exponents="paper")
    law._prepare(pocket)
    fit(law._data, law.priors)  # compiles
    seconds, draws = fit(law._data, law.priors, seed=2)
    hyper = np.hstack([draws.hyper[k] for k in ("noise_sd", "coefficient_sd")])
    feature = law._features.column_feature
    coefficient = np.stack(
        [draws.beta[:, feature == j].sum(axis=1) for j in range(-1, 15)], axis=-1
    )
    ours = least_ess(np.hstack([np.log(hyper), coefficient]).reshape(CHAINS, DRAWS, -1)) / seconds

    compiled = nutpie.compile_pymc_model(naive_model(law._data, law.priors))
    sampler = nutpie.sample(
        compiled, draws=DRAWS, tune=TUNE, chains=CHAINS, seed=1, progress_bar=False,
        blocking=False, save_warmup=False,
    )  # fmt: skip
    start = time.perf_counter()
    try:
        trace = sampler.wait(timeout=NAIVE_SECONDS)
    except TimeoutError:
        trace = sampler.abort()
    naive_seconds = time.perf_counter() - start
    beta = trace["posterior"]["beta"].to_numpy() if "posterior" in trace.children else None
    done = 0 if beta is None else int(np.isfinite(beta).all(axis=(0, 2)).sum())
    # with no common draw after warm-up it is credited with one effective draw a chain
    naive_ess = least_ess(beta[:, :done]) if done >= 10 else float(CHAINS)
    naive_rhat = (
        max(float(array_stats.rhat(beta[:, :done, j])) for j in range(beta.shape[2]))
        if done >= 10
        else np.nan
    )
    ratio = ours / (naive_ess / naive_seconds)
    print(
        f"\nbayes_optlaws {ours:.0f} effective draws a second ({seconds:.1f} s)\n"
        f"naive {naive_ess:.1f} in {naive_seconds:.0f} s ({done} draws a chain, "
        f"R-hat {naive_rhat:.2f})\nratio {ratio:.0f}"
    )
    assert ratio > 1000


def synthetic(pocket, n, rng):
    """A table of n runs like the pocket grid's, losses from a power law and noise."""
    table = pocket[~pocket["diverged"]].sample(n, replace=True, random_state=1)
    table = table.reset_index(drop=True)
    table["run_id"] = [f"r{i}" for i in range(n)]
    table["peak_lr"] *= np.exp(0.1 * rng.standard_normal(n))
    table["plateau_lr"] = table["peak_lr"]
    loss = 1.5 + (table["n_params"] / 1e4) ** -0.3 + (table["tokens"] / 1e6) ** -0.4
    best = np.log(0.02) - 0.1 * np.log(table["n_params"] / 1e5)
    loss *= np.exp(0.02 * (np.log(table["peak_lr"]) - best) ** 2)
    table["final_loss"] = loss * np.exp(0.01 * rng.standard_normal(n))
    return table


@pytest.mark.parametrize("transfer", [False, True], ids=["law alone", "transfer"])
def test_fit_time_does_not_grow_with_the_number_of_runs(pocket, transfer):
    rows = []
    for n in (260, 2_600, 26_000, 100_000, 260_000):
        law = OptLaw(transfer=transfer)
        start = time.perf_counter()
        law._prepare(synthetic(pocket, n, np.random.default_rng(2)))
        prepared = time.perf_counter() - start
        if not rows:
            fit(law._data, law.priors)  # compiles
        rows.append({"runs": n, "features_s": prepared, "fit_s": fit(law._data, law.priors)[0]})
    table = pd.DataFrame(rows).set_index("runs")
    print(f"\n{table.round(2)}")
    assert (table["fit_s"] <= 2 * table["fit_s"].iloc[0]).all()
