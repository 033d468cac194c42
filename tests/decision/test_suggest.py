import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure

import bayes_optlaws as bo
from bayes_optlaws.decision.search_space import FAMILIES, space
from bayes_optlaws.runs.rows import schedule_of
from bayes_optlaws.schedules import integrals
from studies.decisions import (
    measured_exponents,
    neighbour,
    rule_prior,
    suggestions,
)

N, D, BATCH = 246_240, 3_686_400, 1024


@pytest.fixture(scope="module")
def found(small_law):
    return small_law.suggest(N, D, BATCH)


def make_space(runs, **options):
    given = {
        "n_params": N, "tokens": D, "batch_tokens": BATCH, "families": None, "bounds": None,
        "min_lr": None,
    }  # fmt: skip
    return space(runs, **(given | options))


def test_no_setting_of_a_fine_grid_is_better(small_law, found):
    lr, warmup = np.meshgrid(np.geomspace(0.003, 0.15, 50), np.geomspace(64, 3000, 40))
    grid = pd.DataFrame(
        {
            "n_params": N, "tokens": D, "batch_tokens": BATCH, "peak_lr": lr.ravel(),
            "warmup_steps": warmup.ravel().round(), "schedule": "linear",
        }
    )  # fmt: skip
    table = pd.concat([found.candidate[grid.columns], grid], ignore_index=True)
    loss = small_law.predict_draws(table, "mean", finished=True, max_draws=2000).to_numpy()
    mean = loss.mean(axis=0)
    gap = mean[0] - mean[1:].min()
    assert gap < 2e-4
    best = found.table["loss_mean"].iloc[0]
    assert best == pytest.approx(mean[0], abs=4 * loss[:, 0].std() / np.sqrt(len(loss)))


def test_table_says_how_often_the_two_losses_tie(small_law, found):
    table = found.table
    assert np.all(np.diff(table["loss_mean"]) >= 0) and table["excess"].iloc[0] == 0
    assert table["p_tied"].iloc[0] == 1 and table["tied"].equals(table["p_tied"] >= 0.5)
    some = table.iloc[:: max(1, len(table) // 60)]
    some = pd.concat([table.iloc[[0]], some.iloc[1:]])
    loss = small_law.predict_draws(some, "mean", finished=True, max_draws=2000).to_numpy()
    share = np.mean(np.abs(loss - loss[:, :1]) <= found.tie, axis=0)
    assert np.allclose(share, some["p_tied"], atol=1e-12)
    assert 0.02 < table["tied"].mean() < 0.98
    noise = small_law.predictor.noise_sd(table.iloc[[0]])
    assert found.tie == pytest.approx(np.median(noise) * table["loss_mean"].iloc[0], rel=0.02)


def test_interval_is_that_of_one_new_run(small_law, found):
    shown = small_law.predict(found.candidate, max_draws=2000).iloc[0]
    se = shown["loss_sd"] / np.sqrt(2000)
    assert abs(found.loss_mean - shown["loss_mean"]) < 5 * se
    assert abs(found.loss_lower - shown["loss_lower"]) < 10 * se
    assert abs(found.loss_upper - shown["loss_upper"]) < 10 * se


def test_region_and_alternatives_are_tied_settings(found):
    tied = found.table[found.table["tied"]]
    low, high = found.region.loc[("linear", "peak_lr"), ["low", "high"]]
    assert (low, high) == (tied["peak_lr"].min(), tied["peak_lr"].max())
    assert set(found.alternatives.index) <= set(tied.index) - {found.table.index[0]}
    assert 1 <= len(found.alternatives) <= 4
    apart = np.abs(np.log(found.alternatives["peak_lr"] / found.schedule.peak_lr))
    assert apart.max() > 0.5 * np.log(high / low) / 2


def test_a_table_of_settings_is_a_candidate_table(small_law, found):
    first = found.table.iloc[:3]
    assert len(small_law.rank(first, max_draws=500).table) == 3
    assert found.schedule.peak_lr == found.candidate["peak_lr"].iloc[0]


def test_risk_of_divergence_is_bounded_and_costs_loss(small_law):
    question = {"bounds": {"warmup_steps": 64}, "n_alternatives": 0}
    free = small_law.suggest(10_320, 1_228_800, BATCH, max_p_diverge=1.0, **question)
    limit = free.p_diverge / 3
    assert limit > 1e-12
    safe = small_law.suggest(10_320, 1_228_800, BATCH, max_p_diverge=limit, **question)
    assert (safe.table["p_diverge"] <= limit).all()
    assert safe.schedule.peak_lr < free.schedule.peak_lr
    assert safe.table["loss_mean"].iloc[0] >= free.table["loss_mean"].iloc[0] - 1e-4
    assert len(free.alternatives) == 0
    with pytest.raises(ValueError, match="so small a risk"):
        small_law.suggest(
            10_320, 1_228_800, BATCH, max_p_diverge=1e-9,
            bounds={"peak_lr": (0.1, 0.15), "warmup_steps": 64},
        )  # fmt: skip


def test_several_families_and_batches_are_searched(small_law):
    found = small_law.suggest(N, D, [512, 1024], families=["linear", "wsd", "polygon"])
    assert set(found.table["schedule"]) == {"linear", "wsd", "polygon"}
    assert set(found.table["batch_tokens"]) <= {512.0, 1024.0}
    assert any("No fitted run" in note and "polygon" in note for note in found.notes)
    assert found.bounds.loc["cooldown", "source"].startswith("no fitted run")
    again = small_law.suggest(N, D, [512, 1024], families=["linear", "wsd", "polygon"])
    assert again.table.equals(found.table)


def test_a_best_at_a_bound_is_said(small_law):
    found = small_law.suggest(N, D, BATCH, bounds={"peak_lr": (0.05, 0.1)})
    assert any("peak_lr lies at the lower bound (given)" in note for note in found.notes)
    found = small_law.suggest(N, 20 * D, BATCH)
    assert any(
        "token budget is" in note and "above the largest fitted" in note for note in found.notes
    )
    far = small_law.extrapolation(found.candidate)[0]
    assert found.extrapolation == pytest.approx(far) and far > 1


def test_plot_and_html(found):
    figure = found.plot()
    assert isinstance(figure, Figure) and len(figure.axes) == 3
    _, ax = plt.subplots()
    assert found.plot(ax=ax) is ax.figure
    html = found._repr_html_()
    assert "The tied region" in html and "Schedule.linear" in html
    assert "As good to within" in repr(found)
    plt.close("all")


@settings(max_examples=80, deadline=None)
@given(
    family=st.sampled_from(FAMILIES),
    cube=st.lists(st.floats(0, 1), min_size=6, max_size=6),
    tokens=st.floats(1e5, 1e8),
)
def test_every_point_of_the_cube_is_a_valid_schedule_within_its_bounds(
    pocket, family, cube, tokens
):
    sp = make_space(pocket, families=family, tokens=tokens, batch_tokens=[512, 1024, 2048])
    axes = sp.axes(family)
    table = sp.table(family, np.array([cube[: len(axes)]]))
    row = table.iloc[0]
    assert sp.bounds["peak_lr"][0] <= row["peak_lr"] * (1 + 1e-12)
    assert row["peak_lr"] <= sp.bounds["peak_lr"][1] * (1 + 1e-12)
    which = list(sp.batches).index(row["batch_tokens"])
    low, high = sp.warmup[which]
    assert round(low) <= row["warmup_steps"] <= round(high)
    made = schedule_of(row)
    assert made.kind == family
    direct, from_row = made.integrals(), integrals(table)
    for name in ("conv_warmup", "conv_cooldown", "escape_warmup", "escape_cooldown"):
        assert getattr(direct, name) == pytest.approx(getattr(from_row, name)[0], rel=1e-9)


def test_warm_up_bounds_are_those_of_runs_of_like_length(pocket):
    runs = pocket.copy()
    runs["warmup_steps"] = np.minimum(2000.0, runs["steps"] / 2)  # cut to fit into short runs
    for name in ("decay_end_step", "cooldown_start_step"):
        runs[name] = runs["warmup_steps"]
    long = runs["steps"].max()
    assert make_space(runs, tokens=long * BATCH).warmup.tolist() == [[min(2000, long / 2)] * 2]
    beyond = make_space(runs, tokens=8 * long * BATCH)
    assert beyond.bounds["warmup_steps"] == (min(2000, long / 2),) * 2


@pytest.mark.parametrize(
    "options, said",
    [
        ({"families": "zigzag"}, "families is 'zigzag'"),
        ({"families": []}, "families is"),
        ({"bounds": {"lr": 1}}, "bounds has 'lr'"),
        ({"bounds": {"peak_lr": (0.1, 0.01)}}, "bounds\\['peak_lr'\\]"),
        ({"bounds": {"warmup_steps": (10, 1e9)}}, "less than the 3600"),
        ({"n_params": -1}, "n_params is -1"),
        ({"tokens": np.nan}, "tokens is nan"),
        ({"batch_tokens": 1e6}, "at least 10"),
        ({"min_lr": 1.0}, "min_lr is 1.0"),
        ({"max_p_diverge": 0}, "max_p_diverge is 0"),
        ({"prob": 1.0}, "prob is 1.0"),
        ({"tie": -1}, "tie is -1"),
    ],
)
def test_a_wrong_argument_is_named_before_the_search(small_law, options, said):
    question = {"n_params": N, "tokens": D, "batch_tokens": BATCH} | options
    with pytest.raises(ValueError, match=said):
        small_law.suggest(**question)


def test_an_unfitted_law_suggests_nothing():
    with pytest.raises(RuntimeError, match="no posterior"):
        bo.OptLaw().suggest(N, D, BATCH)


def test_neighbour_counts_in_steps_of_the_grid():
    runs = pd.DataFrame(
        {
            "peak_lr": [1e-3, 2e-3, 1e-3, 2e-3],
            "warmup_steps": [10, 10, 1000, 1000],
            "batch_tokens": 1e5,
        }
    )
    at = pd.Series({"peak_lr": 1.6e-3, "warmup_steps": 90, "batch_tokens": 1e5})
    assert neighbour(runs, at) == 1  # 1.6 is nearer 2, 90 nearer 10 on the log scale


def test_measured_exponents_of_known_laws(pocket):
    rows = []
    for tokens in (1e8, 4e8, 1.6e9):
        for batch in (1e4, 2e4, 4e4, 8e4):
            for lr in np.geomspace(1e-4, 1e-2, 41):
                best_lr = 1e-3 * (tokens / 4e8) ** 0.25 * (batch / 2e4) ** 0.5
                best_batch = 2e4 * (tokens / 4e8) ** 0.5
                loss = 3 + np.log(lr / best_lr) ** 2 + np.log(batch / best_batch) ** 2
                rows.append((1e6, tokens, batch, tokens / batch, lr, loss, False))
    names = ["n_params", "tokens", "batch_tokens", "steps", "peak_lr", "final_loss", "diverged"]
    found = measured_exponents(pd.DataFrame(rows, columns=names)).iloc[0]
    assert found["batch"] == pytest.approx(0.5, abs=1e-9)
    assert found["lr"] == pytest.approx(0.25 + 0.25, abs=0.05)
    assert found["lr_at_fixed_batch"] == pytest.approx(0.25, abs=0.05)


def test_regret_of_a_suggestion_is_that_of_a_measured_run(small_law, pocket):
    cell = pocket[pocket["n_params"] == pocket["n_params"].max()]
    found = suggestions(small_law, cell).iloc[0]
    finished = cell[~cell["diverged"]]
    assert found["best_loss"] == finished["final_loss"].min()
    near = finished[finished["peak_lr"] == found["neighbour_lr"]]
    assert (near["final_loss"] == found["neighbour_loss"]).any()
    assert found["regret"] == found["neighbour_loss"] - found["best_loss"] >= 0
    gap = np.abs(np.log(finished["peak_lr"] / found["suggested_lr"]))
    assert abs(np.log(found["neighbour_lr"] / found["suggested_lr"])) == pytest.approx(gap.min())
    assert found["tied_lr_low"] <= found["suggested_lr"] <= found["tied_lr_high"]


def test_a_rule_is_judged_beside_none_and_its_refusal_is_kept(small_law, pocket):
    cell = pocket[pocket["n_params"] == pocket["n_params"].max()]
    found = rule_prior(small_law, cell, priors=((None, np.nan), ("A", 2.0), ("A", 1e-3)))
    assert found["regime"].tolist() == ["none", "A", "A"]
    assert (found["refused"] == "").tolist() == [True, True, False]
    none, loose, _ = (row for _, row in found.iterrows())
    assert none["crps"] > 0 and loose["ess"] < none["ess"]
    observed = cell.loc[~cell["diverged"], "final_loss"]
    shown = small_law.predict(cell[~cell["diverged"]])["loss_mean"]
    error = np.mean(np.abs(shown / observed - 1))
    assert none["relative_error"] == pytest.approx(error, rel=0.03)
