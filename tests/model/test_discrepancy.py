"""Coordinates, inducing points and basis of the discrepancy."""

import numpy as np
import pandas as pd
import pytest

from bayes_optlaws.model.covariates import Covariates
from bayes_optlaws.model.discrepancy import (
    MAX_CELLS,
    MAX_LOCAL,
    MOST_UNUSUAL,
    SAME_SCALE,
    SETTINGS,
    Discrepancy,
    inducing_points,
    interpolation,
    matern52,
    merge_scales,
    scales,
    settings,
    squared_exponential,
)
from bayes_optlaws.runs.readers import read_candidates

BASE = {"n_params": 1e6, "tokens": 1e6, "batch_tokens": 1000, "peak_lr": 0.01, "warmup_steps": 100}


def candidates(*rows):
    return read_candidates(
        pd.DataFrame([{**BASE, "run_id": f"r{i}", **row} for i, row in enumerate(rows)])
    )


def test_settings_by_hand():
    table = candidates(
        {"schedule": "linear", "min_lr": 0.0},
        {"schedule": "cosine", "min_lr": 0.0},
        {"schedule": "wsd", "min_lr": 0.0, "cooldown_start_step": 820},
        {"schedule": "constant"},
        {"schedule": "linear", "min_lr": 0.001},
    )
    z = settings(table)
    np.testing.assert_allclose(z["lr"], np.log(0.01))
    np.testing.assert_allclose(z["batch"], np.log(1000))
    np.testing.assert_allclose(z["cooldown"], [1, 1, 180 / 900, 0, 1])
    np.testing.assert_allclose(z["shape"], [0, np.log(np.pi**2 / 8), 0, 0, 0], atol=1e-6)
    np.testing.assert_allclose(z["floor"], [0, 0, 0, 1, 0.1], atol=1e-12)
    assert set(z) == set(SETTINGS)


def test_kernels_are_correlations_with_the_closed_forms(rng):
    x = rng.normal(size=(6, 2))
    for kernel in (squared_exponential, matern52):
        k = kernel(x, x, 1.3)
        np.testing.assert_allclose(np.diag(k), 1.0)
        np.testing.assert_allclose(k, k.T)
        assert np.linalg.eigvalsh(k).min() > 0
    r = np.linalg.norm(x[0] - x[1]) / 1.3
    assert squared_exponential(x[:1], x[1:2], 1.3)[0, 0] == pytest.approx(np.exp(-(r**2) / 2))
    expected = (1 + np.sqrt(5) * r + 5 * r**2 / 3) * np.exp(-np.sqrt(5) * r)
    assert matern52(x[:1], x[1:2], 1.3)[0, 0] == pytest.approx(expected)


def test_inducing_points_are_all_distinct_points_while_they_are_few(rng):
    few = rng.normal(size=(9, 2))
    found = inducing_points(np.repeat(few, 5, axis=0), 12)
    np.testing.assert_allclose(found, few[np.lexsort((few[:, 1], few[:, 0]))], atol=1e-9)
    many = rng.normal(size=(500, 2))
    found = inducing_points(many, 12)
    assert 1 <= len(found) <= 12
    assert np.all(found.min(axis=0) >= many.min(axis=0))
    np.testing.assert_array_equal(found, inducing_points(many, 12))  # the same each time


def test_interpolation_is_exact_at_inducing_points_and_the_kriging_mean_elsewhere(rng):
    inducing = rng.normal(size=(8, 2))
    points = np.vstack([inducing[::-1], rng.normal(size=(4, 2))])
    w = interpolation(points, inducing)
    np.testing.assert_array_equal(w[:8], np.eye(8)[::-1])
    gram = squared_exponential(inducing, inducing, 1.0) + 1e-8 * np.eye(8)
    expected = squared_exponential(points[8:], inducing, 1.0) @ np.linalg.inv(gram)
    np.testing.assert_allclose(w[8:], expected, rtol=1e-5, atol=1e-5)


def test_basis_is_slope_times_field_in_the_own_cell_plus_local_correction_and_drifts(pocket, rng):
    d = Discrepancy.fit(pocket)
    cell = pocket[["n_params", "tokens"]].drop_duplicates()
    assert len(d.cells) == len(cell) <= MAX_CELLS
    assert d.n_local <= MAX_LOCAL
    u = rng.normal(size=d.n_columns)
    found = d.basis(pocket) @ u
    fields = u[: len(d.fields) * len(d.cells)].reshape(len(d.fields), len(d.cells))
    local = u[len(d.fields) * len(d.cells) :][: d.n_local]
    drift = u[len(d.fields) * len(d.cells) + d.n_local :]
    s = scales(pocket) - d.centre
    nearest = np.linalg.norm(s[:, None] - d.cells[None], axis=2).argmin(axis=1)
    expected = np.einsum("rf,fr->r", d.slopes(pocket), fields[:, nearest])
    expected += d.local_functions(d.local_points(pocket)) @ local
    n, tokens = (drifts.basis(x) for drifts, x in zip(d.drifts, s.T, strict=True))
    expected += np.hstack([n, tokens]) @ drift
    np.testing.assert_allclose(found, expected, atol=1e-10)


def local_covariance(d, a, b):
    """The local correction's covariance per unit sd, written anew: N and tokens, LR, warm-up."""
    gap = (a[:, None] - b[None]) ** 2
    over_scales = np.exp(-0.5 * (gap[..., 0] / 1.25**2 + gap[..., 1] / 3.0**2))
    r = np.sqrt(5.0 * gap[..., 2:].sum(axis=-1)) / 2.0
    growth = np.exp(a[:, None, 2] + b[None, :, 2])
    return growth * over_scales * (1 + r + r**2 / 3) * np.exp(-r)


def test_local_functions_and_what_they_miss_are_the_whole_kernel(pocket, rng):
    d = Discrepancy.fit(pocket)
    assert d.varying[0] == "lr"
    points = d.local_points(pocket)
    whole = local_covariance(d, points, points)
    phi = d.local_functions(points)
    assert phi.shape == (len(pocket), d.n_local)
    # of the runs themselves next to nothing is missed
    grown = np.sqrt(np.diag(whole))
    missed = (whole - phi @ phi.T) / np.outer(grown, grown)
    assert np.linalg.eigvalsh(missed).min() > -1e-8
    assert np.diag(missed).mean() < 0.02
    new = points[:7] + rng.normal(size=(7, points.shape[1]))
    part = d.local_functions(new)
    rest = d.local_missed(new, part, new, part)
    assert np.linalg.eigvalsh(rest).min() > -1e-8
    np.testing.assert_allclose(part @ part.T + rest, local_covariance(d, new, new), rtol=1e-9)
    # far from every run the functions say nothing
    far = points[:1] + [12.0, 0.0, *np.zeros(points.shape[1] - 2)]
    np.testing.assert_allclose(d.local_functions(far), 0.0, atol=1e-9)


def test_local_correction_does_not_grow_with_an_lr_that_never_varied(pocket):
    table = pocket[pocket["peak_lr"] == pocket["peak_lr"].mode()[0]].reset_index(drop=True)
    d = Discrepancy.fit(table)
    assert "lr" not in d.varying
    np.testing.assert_array_equal(d.local_growth(d.local_points(table)), 1.0)


def test_with_covariates_the_local_correction_grows_towards_extreme_settings(pocket):
    """e to the largest standardised number; a category has no extremes, and few runs no e^17."""
    decay = np.where(np.arange(len(pocket)) < 2, 0.9, 0.1)
    kind = np.where(np.arange(len(pocket)) < 2, "rare", "usual")
    table = pocket.assign(decay=decay, kind=kind)
    d = Discrepancy.fit(
        table, covariates=Covariates.fit(table, {"kind": "category", "decay": "auto"})
    )
    z = d.standard_settings(table, ("lr", "warmup"))
    far = np.maximum(np.abs(z[:, 1]), np.abs((decay - decay.mean()) / decay.std()))
    assert far[:2].min() > 10 and far[2:].max() < MOST_UNUSUAL
    expected = np.where(far > 3.0, np.exp(3.0) * far / 3.0, np.exp(far)) * np.exp(z[:, 0])
    growth = d.local_growth(d.local_points(table))
    np.testing.assert_allclose(growth, expected / np.exp(far.mean()), rtol=1e-9)
    # groups leave it as it was
    two = table.assign(group=kind)
    plain = Discrepancy.fit(two, covariates=Covariates.fit(two, {}, pooled=True))
    np.testing.assert_allclose(plain.local_growth(plain.local_points(two)), np.exp(z[:, 0]))


def test_fields_are_a_level_and_slopes_of_the_settings_that_vary(pocket):
    d = Discrepancy.fit(pocket)
    assert d.fields[0] == "level"
    assert d.varying == ("lr", "warmup")
    assert np.all(d.slopes(pocket)[:, 0] == 1.0)
    z = d.standard_settings(pocket, ("lr", "warmup"))
    np.testing.assert_allclose(z.mean(axis=0), 0, atol=1e-10)
    np.testing.assert_allclose(z.std(axis=0), 1)
    lr = d.fields.index("lr")
    np.testing.assert_allclose(d.slopes(pocket)[:, lr], z[:, 0])


def test_a_setting_that_few_runs_vary_stays_within_reach(pocket):
    """One run at another LR makes the sd of log LR small, and e^z must not explode for it."""
    table = pocket[pocket["peak_lr"] == 0.008].reset_index(drop=True).copy()
    table.loc[0, "peak_lr"] = 0.016
    d = Discrepancy.fit(table)
    assert "lr" in d.varying
    spread = np.ptp(d.standard_settings(table, ("lr",)))
    assert spread == pytest.approx(np.log(2) / 0.5)
    assert d.local_growth(d.local_points(table)).max() < 5


def test_settings_that_never_varied_are_measured_in_their_natural_unit(pocket):
    d = Discrepancy.fit(pocket)
    np.testing.assert_allclose(d.unseen(pocket), 0, atol=1e-10)
    other = candidates({"schedule": "constant", "batch_tokens": 1024})
    unseen = d.unseen(other)[0]
    names = [k for k in SETTINGS if k not in d.varying]
    value = dict(zip(names, unseen, strict=True))
    assert value["floor"] > 1 and value["cooldown"] < -1  # a constant LR is far from linear


def test_distance_is_in_nats_to_the_nearest_seen_scale(pocket):
    d = Discrepancy.fit(pocket)
    table = pocket.iloc[:2].copy()
    table["n_params"] = pocket["n_params"].max() * np.array([np.e, np.e**2])
    table["tokens"] = pocket.loc[pocket["n_params"].idxmax(), "tokens"]
    np.testing.assert_allclose(d.distance(table), [1.0, 2.0], rtol=1e-9)
    np.testing.assert_allclose(d.distance(pocket), 0.0, atol=1e-9)


def test_budgets_rounded_to_whole_steps_are_one_cell(pocket, rng):
    """Prediction at a budget a few steps off reads the cell's own part, it does not draw one."""
    rounded = pocket.copy()
    rounded["tokens"] = rounded["tokens"] * rng.uniform(0.997, 1.003, len(rounded))
    d, exact = Discrepancy.fit(rounded), Discrepancy.fit(pocket)
    assert len(d.cells) == len(exact.cells) < len(np.unique(scales(rounded), axis=0))
    near = np.abs(d.standard_scales(rounded) + d.centre - scales(rounded)).max()
    assert 0 < near <= SAME_SCALE
    again = pocket.copy()
    again["tokens"] = pocket["tokens"] * rng.uniform(0.999, 1.001, len(pocket))
    np.testing.assert_array_equal(d.standard_scales(again), d.standard_scales(pocket))
    np.testing.assert_array_equal(d.distance(again), 0.0)


@pytest.mark.parametrize("seed", range(5))
def test_merged_scales_are_near_their_own_and_apart_from_the_others(seed):
    rng = np.random.default_rng(seed)
    centre = 0.1 * np.argwhere(np.ones((6, 5))) + [0.0, 0.03] * rng.uniform(size=(30, 2))
    points = np.repeat(centre, 20, axis=0) + rng.uniform(-0.004, 0.004, (600, 2))
    known = merge_scales(points[:300], np.zeros((0, 2)))
    np.testing.assert_array_equal(merge_scales(known, np.unique(known, axis=0)), known)
    merged = merge_scales(points, np.unique(known, axis=0))
    np.testing.assert_array_equal(merged[:300], known)  # a known scale keeps its place
    assert np.abs(merged - points).max() <= SAME_SCALE
    assert len(np.unique(merged, axis=0)) == 30


def test_scales_further_apart_than_the_tolerance_stay_apart():
    line = np.column_stack([np.zeros(50), np.arange(50) * (SAME_SCALE * 1.01)])
    np.testing.assert_array_equal(merge_scales(line, np.zeros((0, 2))), line)


def test_a_table_with_one_cell_and_no_varying_setting_has_only_a_level(pocket):
    table = pd.concat([pocket.iloc[[0]]] * 6, ignore_index=True)
    d = Discrepancy.fit(table)
    assert d.fields == ("level",)
    assert d.n_columns == 1
    np.testing.assert_array_equal(d.basis(table), np.ones((6, 1)))


def test_more_cells_than_the_limit_are_carried_by_interpolation(pocket):
    table = pd.concat([pocket.iloc[[0]]] * 60, ignore_index=True)
    rng = np.random.default_rng(1)
    table["n_params"] = np.exp(rng.uniform(10, 14, 60))
    table["tokens"] = np.exp(rng.uniform(14, 17, 60))
    d = Discrepancy.fit(table)
    assert len(d.cells) <= MAX_CELLS
    # a smooth field read at the inducing points is found again at the runs
    smooth = lambda s: np.sin(0.5 * s[:, 0]) + 0.2 * s[:, 1]  # noqa: E731
    u = np.zeros(d.n_columns)
    u[: len(d.cells)] = smooth(d.cells)
    error = d.basis(table) @ u - smooth(d.standard_scales(table))
    assert np.sqrt(np.mean(error**2)) < 0.1 * smooth(d.standard_scales(table)).std()


def test_random_features_have_the_covariance_of_what_is_missed(pocket, rng):
    """Averaged over many sets of features, within Monte-Carlo error; each set is one function."""
    d = Discrepancy.fit(pocket)
    points = d.local_points(pocket.iloc[:6]) + 0.5 * rng.normal(size=(6, d.points.shape[1]))
    phi = d.local_functions(points)
    expected = d.local_missed(points, phi, points, phi)
    sets, found = 400, []
    for _ in range(sets):
        part = d.local_missed_features(points, phi, d.local_frequencies(64, rng))
        found.append(part @ part.T)
    error = np.std(found, axis=0) / np.sqrt(sets)
    assert np.all(np.abs(np.mean(found, axis=0) - expected) < 4.5 * error + 1e-9)
    features = d.local_frequencies(64, rng)
    whole = d.local_missed_features(points, phi, features)
    halves = [d.local_missed_features(points[i], phi[i], features) for i in (slice(3), slice(3, 6))]
    np.testing.assert_allclose(np.vstack(halves), whole, rtol=1e-12)
