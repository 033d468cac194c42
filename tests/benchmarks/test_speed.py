"""How fast: against the naive model on the pocket grid, and against the number of runs.

`make slow` runs these and prints their tables (``-s`` shows them while they run).
"""

import time

import numpy as np
import nutpie
import pandas as pd
import pytest
from arviz_stats.base import array_stats
from laws import encoded

from bayes_optlaws.inference import nuts as sampling
from bayes_optlaws.inference.density import HyperSpace
from bayes_optlaws.inference.reference import naive_model
from bayes_optlaws.law import OptLaw
from bayes_optlaws.model.priors import Priors

NAIVE, SHORT = {"draws": 2000, "tune": 1000}, {"draws": 10, "tune": 20}
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


def gradient_seconds(encoding, repeats=200):
    """Median seconds of an evaluation of the density and its gradient."""
    space = HyperSpace(encoding.data, Priors())
    x, seconds = space.mode(), []
    for _ in range(repeats):
        start = time.perf_counter()
        space.log_density(x)
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds))


def naive_fit(compiled, *, draws, tune):
    """Seconds, leapfrog steps (warm-up included) and draws of the coefficients."""
    start = time.perf_counter()
    trace = nutpie.sample(
        compiled, draws=draws, tune=tune, chains=CHAINS, seed=1, progress_bar=False,
        save_warmup=True,
    )  # fmt: skip
    seconds = time.perf_counter() - start
    steps = sum(
        int(trace[group]["n_steps"].sum()) for group in ("sample_stats", "warmup_sample_stats")
    )
    return seconds, steps, trace["posterior"]["beta"].to_numpy()


def test_effective_draws_per_second_against_the_naive_model(pocket):
    """The paper's 625 combinations; neither side's compilation counts.

    Two naive models of one posterior, coefficients in the graph and exponents summed out: run by
    run as it would first be written, and from Gram matrices, which is the package's own remedy.
    The chains of the second hardly agree, also with three times the draws, so that its effective
    draws flatter it.  The first needs as many leapfrog steps for an effective
    draw, so the time of its steps tells what it would take, which is hours.
    """
    law = encoded(pocket, transfer=False, exponents="paper")
    fit(law.encoding.data, law.priors)  # compiles
    seconds, draws = fit(law.encoding.data, law.priors, seed=2)
    hyper = np.hstack([draws.hyper[k] for k in ("noise_sd", "coefficient_sd")])
    feature = law.encoding.features.column_feature
    coefficient = np.stack(
        [draws.beta[:, feature == j].sum(axis=1) for j in range(-1, 15)], axis=-1
    )
    ours = least_ess(np.hstack([np.log(hyper), coefficient]).reshape(CHAINS, DRAWS, -1)) / seconds

    gram = nutpie.compile_pymc_model(naive_model(law.encoding.data, law.priors))
    naive_seconds, steps, beta = naive_fit(gram, **NAIVE)
    ess = least_ess(beta)
    rhat = max(float(array_stats.rhat(beta[..., j])) for j in range(beta.shape[2]))
    y = np.log(law.encoding.finished["final_loss"].to_numpy(float)) - law.encoding.centre
    by_run = nutpie.compile_pymc_model(
        naive_model(law.encoding.data, law.priors, rows=law.encoding.rows(), y=y)
    )
    short_seconds, short_steps, _ = naive_fit(by_run, **SHORT)
    rate = {
        "bayes_optlaws": ours,
        "naive, Gram matrices": ess / naive_seconds,
        "naive, run by run": ess / steps * short_steps / short_seconds,
    }
    table = pd.DataFrame(
        {"effective draws a second": rate, "ratio": {k: ours / v for k, v in rate.items()}}
    )
    print(f"\n{table}\nnaive chains: R-hat {rhat:.3f}, {ess:.0f} effective draws, {steps:,} steps")
    assert rhat < 1.1
    assert table.loc["naive, run by run", "ratio"] > 1000
    assert table.loc["naive, Gram matrices", "ratio"] > 10


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
    """Of a gradient, that is: how long chains have to go on until they pass is luck."""
    rows = []
    for n in (260, 2_600, 26_000, 100_000, 260_000):
        law = OptLaw(transfer=transfer)
        start = time.perf_counter()
        encoding = law.encode(synthetic(pocket, n, np.random.default_rng(2)))
        prepared = time.perf_counter() - start
        if not rows:
            fit(encoding.data, Priors())  # compiles
        rows.append(
            {"runs": n, "features_s": prepared, "gradient_us": 1e6 * gradient_seconds(encoding),
             "fit_s": fit(encoding.data, Priors())[0]}
        )  # fmt: skip
    table = pd.DataFrame(rows).set_index("runs")
    print(f"\n{table.round(2)}")
    assert (table["gradient_us"] <= 1.5 * table["gradient_us"].iloc[0]).all()
    assert table["fit_s"].iloc[-1] <= 3 * table["fit_s"].iloc[0]
