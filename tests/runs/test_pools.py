"""Pools of possible runs: grids, Sobol points, and what is refused."""

import numpy as np
import pytest

import bayes_optlaws as bo

BASE = {"n_params": 1e7, "tokens": 1e9, "batch_tokens": 1e5, "peak_lr": 1e-3}


def test_grid_is_the_product_of_its_axes():
    runs = bo.pool(**BASE | {"n_params": [1e7, 2e7], "peak_lr": (1e-4, 1e-2)}, points=3)
    assert len(runs) == 6
    assert sorted(runs["peak_lr"].unique()) == pytest.approx([1e-4, 1e-3, 1e-2])
    assert (runs["warmup_steps"] == 500).all()
    assert runs.index[0].endswith("-lr1e-4-w500") and runs["run_id"].is_unique


def test_cooldown_counts_only_for_wsd():
    runs = bo.pool(**BASE, schedule=["linear"], cooldown=[0.1, 0.2, 0.3])
    assert len(runs) == 1
    runs = bo.pool(**BASE, schedule="wsd", cooldown=[0.1, 0.2])
    assert sorted(runs["cooldown_start_step"]) == [8000, 9000]


def test_sobol_points_fill_the_ranges_evenly_and_repeat_by_seed():
    spec = BASE | {"n_params": (1e6, 1e8), "peak_lr": (1e-4, 1e-2), "batch_tokens": [1e5, 2e5]}
    runs = bo.pool(**spec, n=256, random_seed=3)
    assert len(runs) == 256
    for name, low, high in (("n_params", 1e6, 1e8), ("peak_lr", 1e-4, 1e-2)):
        share = np.sort(np.log(runs[name] / low) / np.log(high / low))
        assert np.max(np.abs(share - (np.arange(256) + 0.5) / 256)) < 0.01
    assert runs["batch_tokens"].value_counts().tolist() == [128, 128]
    again = bo.pool(**spec, n=256, random_seed=3)
    assert again.equals(runs)
    assert not bo.pool(**spec, n=256, random_seed=4).equals(runs)


def test_runs_too_short_for_their_warmup_are_left_out_and_said():
    with pytest.warns(bo.RunTableWarning, match="1 of 2 combinations"):
        runs = bo.pool(**BASE, warmup=[100, 20_000])
    assert runs["warmup_steps"].tolist() == [100]
    with pytest.raises(ValueError, match="no run is left"):
        bo.pool(**BASE, warmup=20_000)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"peak_lr": (1e-2, 1e-3)}, "low end"),
        ({"peak_lr": (1e-2, 1e-3, 3)}, "list for single values"),
        ({"n_params": -1}, "positive"),
        ({"tokens": "many"}, "numbers only"),
        ({"warmup": (0.1, 100)}, "mix"),
        ({"cooldown": 1.5, "schedule": "wsd"}, "below 1"),
        ({"schedule": "polygon"}, "polygon"),
        ({"n": 0}, "at least 1"),
        ({"min_lr": 1.0}, "share of the peak"),
    ],
)
def test_wrong_specifications_are_refused(change, words):
    with pytest.raises(ValueError, match=words):
        bo.pool(**BASE | change)
