"""Noise classes: a partition by medians, then by the nearest centre."""

import numpy as np
import pandas as pd
import pytest

from bayes_optlaws.model.discrepancy import Discrepancy
from bayes_optlaws.model.noise import COVARIATES, MAX_CLASSES, MIN_CLASS, NoiseClasses


@pytest.fixture(scope="module")
def fitted(pocket):
    table = pocket[~pocket["diverged"]]
    d = Discrepancy.fit(table)
    return table, d, NoiseClasses.fit(table, d)


def test_classes_are_a_partition_and_none_is_small(fitted):
    table, _, noise = fitted
    count = np.bincount(noise.label)
    assert count.sum() == len(table)
    # splitting stops at the first round that reaches the limit, so it may be passed in that round
    assert len(count) == len(noise.covariates) < 2 * MAX_CLASSES
    assert count.min() >= MIN_CLASS
    assert noise.names == tuple(k for k in COVARIATES if k in ("lr", "warmup"))


def test_each_run_belongs_to_the_class_of_the_nearest_centre(fitted):
    table, d, noise = fitted
    z = d.standard_settings(table, noise.names)
    away = np.linalg.norm(z[:, None] - noise.covariates[None], axis=2)
    np.testing.assert_array_equal(noise.label, away.argmin(axis=1))


def test_a_run_predicted_anew_has_the_noise_it_was_fitted_with(fitted):
    """Likelihood, leave-one-out, predictions and replicated data share one noise model."""
    table, d, noise = fitted
    np.testing.assert_array_equal(noise.at(table, d), noise.covariates[noise.label])


def test_classes_tell_high_from_low_learning_rates(fitted):
    table, _, noise = fitted
    lr = np.log(table["peak_lr"].to_numpy())
    between = np.var([lr[noise.label == c].mean() for c in range(len(noise.covariates))])
    assert between > 0.5 * lr.var()


def test_candidates_far_from_all_runs_have_the_noise_of_an_outermost_class(fitted):
    table, d, noise = fitted
    far = table.iloc[:2].copy()
    far["peak_lr"] = [1e-9, 1e9]
    at, lr = noise.at(far, d)[:, 0], noise.covariates[:, 0]
    middle = np.median(lr)
    assert at[0] < middle < at[1] and np.all(np.isin(at, lr))


def test_constant_noise_is_one_class_without_covariates(fitted):
    table, d, _ = fitted
    noise = NoiseClasses.fit(table, d, constant=True)
    assert noise.names == () and noise.covariates.shape == (1, 0)
    assert np.all(noise.label == 0)
    assert noise.at(table, d).shape == (len(table), 0)


@pytest.mark.parametrize("n", [1, 5, 23])
def test_few_runs_are_one_class(pocket, n):
    table = pocket[~pocket["diverged"]].iloc[:n]
    noise = NoiseClasses.fit(table, Discrepancy.fit(table))
    assert np.all(noise.label == 0) and len(noise.covariates) == 1


def test_ties_at_the_median_do_not_lose_runs(pocket):
    row = pocket.iloc[[0]]
    table = pd.concat([row] * 40 + [row.assign(peak_lr=0.02)] * 10, ignore_index=True)
    noise = NoiseClasses.fit(table, Discrepancy.fit(table))
    assert noise.label.size == 50 and np.bincount(noise.label).sum() == 50


def test_a_setting_with_few_values_off_its_median_gives_way_to_the_next(pocket):
    """All but five runs have one warm-up: classes differ by learning rate instead."""
    row = pocket.iloc[[0]]
    lr = np.tile([0.003, 0.02], 25)
    warmup = np.repeat([64.0, 1000.0], [45, 5])
    table = pd.concat([row] * 50, ignore_index=True).assign(peak_lr=lr, warmup_steps=warmup)
    d = Discrepancy.fit(table)
    z = d.standard_settings(table, ("lr", "warmup"))
    assert np.ptp(z[:, 1]) > np.ptp(z[:, 0])  # the widest setting is the one that is tied
    noise = NoiseClasses.fit(table, d)
    assert len(noise.covariates) == 2
    assert all(len(set(lr[noise.label == c])) == 1 for c in (0, 1))


def test_the_median_itself_goes_to_the_smaller_side_where_it_must(pocket):
    row = pocket.iloc[[0]]
    table = pd.concat([row] * 50, ignore_index=True)
    table["peak_lr"] = np.repeat([0.003, 0.02], [15, 35])  # the median is the highest value
    noise = NoiseClasses.fit(table, Discrepancy.fit(table))
    assert sorted(np.bincount(noise.label)) == [15, 35]


def test_a_table_that_cannot_be_split_has_no_noise_covariates(pocket):
    row = pocket.iloc[[0]]
    table = pd.concat([row] * 40 + [row.assign(peak_lr=0.02)] * 5, ignore_index=True)
    noise = NoiseClasses.fit(table, Discrepancy.fit(table))
    assert noise.names == () and noise.covariates.shape == (1, 0)
