"""Divergence: the criterion, its likelihood, the posterior, and the risk in decisions."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from bayes_optlaws.inference.divergence_sampling import sample_divergence
from bayes_optlaws.inference.gate import diagnose, failures
from bayes_optlaws.model.divergence import (
    DivergenceData,
    DivergencePriors,
    divergence_probability,
    log_excess,
    log_r,
    parameters,
    starting_point,
)
from bayes_optlaws.runs.readers import read_runs


@pytest.fixture(scope="module")
def data(pocket: pd.DataFrame) -> DivergenceData:
    return DivergenceData.from_runs(pocket)


@pytest.fixture(scope="module")
def posterior(data: DivergenceData):
    return sample_divergence(data, DivergencePriors(), draws=500, tune=500, chains=4, random_seed=5)


def draw_prior(data: DivergenceData, n: int, seed: int = 0):
    rng = np.random.default_rng(seed)
    rotation = starting_point(data, DivergencePriors())[0]
    z = rng.standard_normal((n, rotation.shape[0]))
    return z, rotation, parameters(z, data, DivergencePriors(), rotation)


def test_the_smooth_excess_is_the_sharp_one_far_above_the_threshold():
    log_rho = np.array([5.0, 8.0])
    np.testing.assert_allclose(log_excess(log_rho), np.log(np.exp(log_rho) - 1), atol=1e-4)
    low = np.array([-8.0, -5.0])  # sqrt(1 + r^2) - 1 ~ r^2 / 2
    np.testing.assert_allclose(log_excess(low), 2 * low - np.log(2), atol=1e-4)


def test_aggregated_rows_hold_every_run_and_every_event(data, pocket):
    assert data.n_runs == len(pocket)
    assert data.n_diverged == pocket["diverged"].sum()


def test_a_higher_lr_never_makes_a_run_safer(data, pocket):
    _, _, values = draw_prior(data, 50)
    table = pocket.iloc[[0] * 6].copy()
    table["peak_lr"] = np.geomspace(1e-3, 1.0, 6)
    p = divergence_probability(values, data.scale.inputs(table))
    assert np.all(np.diff(p, axis=1) >= -1e-12)


def test_r_is_one_exactly_where_the_probability_is_one_half(data, pocket):
    _, _, values = draw_prior(data, 40)
    inputs = data.scale.inputs(pocket)
    p = divergence_probability(values, inputs)
    r = log_r(inputs, {k[len("divergence_") :]: v for k, v in values.items()})
    np.testing.assert_array_equal(r > 0, p > 0.5)
    np.testing.assert_allclose(p, expit(values["divergence_slope"][:, None] * r), atol=1e-12)
    assert np.abs(values["divergence_correction"]).min() > 0  # with the correction at work


def test_the_posterior_passes_the_gate_and_fits_the_grid(data, posterior, pocket):
    values, stats = posterior
    z = {"z": values["divergence_z"].reshape(4, 500, -1)}
    assert failures(diagnose(z, stats)) == []
    p = divergence_probability(values, data.scale.inputs(pocket)).mean(axis=0)
    y = pocket["diverged"].to_numpy()
    base = np.full(y.size, y.mean())
    assert log_loss(y, p) < 0.5 * log_loss(y, base)


def test_held_out_runs_are_predicted_at_least_as_well_as_by_logistic_regression(pocket):
    rng = np.random.default_rng(1)
    test = np.zeros(len(pocket), dtype=bool)
    for rows in pocket.groupby("block").indices.values():
        test[rng.permutation(rows)[: len(rows) // 3]] = True
    fit, held = pocket[~test], pocket[test]
    data = DivergenceData.from_runs(fit)
    values, _ = sample_divergence(
        data, DivergencePriors(), draws=500, tune=500, chains=4, random_seed=2
    )
    ours = divergence_probability(values, data.scale.inputs(held)).mean(axis=0)

    def logs(t):
        return np.log(t[["n_params", "tokens", "peak_lr", "warmup_steps"]].to_numpy(float))

    centre, unit = logs(fit).mean(axis=0), logs(fit).std(axis=0)
    rival = LogisticRegression(C=10.0, max_iter=2000)
    rival.fit((logs(fit) - centre) / unit, fit["diverged"])
    theirs = rival.predict_proba((logs(held) - centre) / unit)[:, 1]
    y = held["diverged"].to_numpy()
    each = [-np.where(y, np.log(p), np.log1p(-p)) for p in (ours, np.clip(theirs, 1e-9, 1 - 1e-9))]
    lead = each[1] - each[0]
    assert lead.mean() > -lead.std(ddof=1) / np.sqrt(y.size)


def test_risk_reaches_predictions_draws_and_the_ranking(small_law):
    table = pd.DataFrame(
        {
            "n_params": 115008,
            "tokens": 3686400,
            "batch_tokens": 1024,
            "peak_lr": [0.01, 0.15],
            "warmup_steps": [500, 64],
            "schedule": "linear",
        },
        index=["safe", "risky"],
    )
    predicted = small_law.predict(table)
    assert predicted.loc["risky", "p_diverge"] > 0.5 > predicted.loc["safe", "p_diverge"]
    assert np.all(predicted["p_diverge_lower"] <= predicted["p_diverge_upper"])
    assert np.all(np.isfinite(predicted["loss_mean"]))
    draws = small_law.predict_draws(table).to_numpy()
    lost = np.isinf(draws).mean(axis=0)
    error = np.sqrt(predicted["p_diverge"] * (1 - predicted["p_diverge"]) / len(draws)) + 1e-3
    assert np.all(np.abs(lost - predicted["p_diverge"]) < 4 * error)
    assert np.all(np.isfinite(small_law.predict_draws(table, finished=True)))
    ranking = small_law.rank(table, divergence_loss=7.0)
    assert ranking.table.index[0] == "safe"
    assert ranking.table.loc["risky", "expected_regret"] > 0.5


def test_the_opened_model_holds_both_parts(small_law):
    names = {v.name for v in small_law.model.free_RVs}
    assert {"noise_sd", "coefficient_sd", "divergence_z"} <= names


def test_an_empty_table_is_refused(pocket):
    with pytest.raises(ValueError, match="at least one row"):
        DivergenceData.from_runs(read_runs(pocket).iloc[:0])
