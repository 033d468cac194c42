"""Plots: each returns the figure, draws what the numbers say, and takes the axes it is given."""

from dataclasses import replace

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from matplotlib.contour import QuadContourSet
from matplotlib.figure import Figure
from matplotlib.patches import StepPatch

from bayes_optlaws import plots
from bayes_optlaws.cli import demo
from bayes_optlaws.decision.ranking import Ranking
from bayes_optlaws.inference.loo import loo_pit
from bayes_optlaws.schedules import Schedule


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def ranking(small_law):
    return small_law.rank(demo.candidates())


def texts(axis):
    return [label.get_text() for label in axis.get_ticklabels()]


@pytest.mark.parametrize(
    "name",
    ["coefficients", "predictions", "predictive_check", "loss_surface", "stable_region",
     "resolution", "ranks", "pairs", "tie_graph", "pit"],
)  # fmt: skip
def test_plots_of_one_axes_use_the_axes_given(name, small_law, ranking):
    figure, (ax, other) = plt.subplots(1, 2)
    more = {
        "loss_surface": {"n_params": 246240, "tokens": 2457600, "grid": 5},
        "stable_region": {"n_params": 246240, "tokens": 2457600, "grid": 5},
        "resolution": {"candidates": demo.candidates(), "factors": (1, 2)},
    }
    subject = ranking if name in ("ranks", "pairs", "tie_graph") else small_law
    assert getattr(plots, name)(subject, ax=ax, **more.get(name, {})) is figure
    assert ax.has_data() or ax.child_axes
    assert not other.has_data() and not other.child_axes
    figure.canvas.draw()


def test_coefficients_lie_where_the_summary_says(small_law):
    figure = plots.coefficients(small_law, prob=0.5)
    (ax,) = figure.axes
    table = small_law.summary(0.5)
    blocks = ["scale", "convergence", "escape", "mixed"]
    table = pd.concat([table[table["block"] == b] for b in blocks])
    assert texts(ax.yaxis) == list(table.index)
    dots = [line for line in ax.lines if line.get_marker() == "o"]
    np.testing.assert_allclose(np.concatenate([d.get_xdata() for d in dots]), table["mean"])
    ends = np.concatenate([np.array(c.get_segments())[:, :, 0] for c in ax.collections])
    np.testing.assert_allclose(ends, table[["lower", "upper"]])
    assert "50 %" in ax.get_title()


def test_what_priors_say_of_losses_stands_beside_the_runs(small_law, pocket):
    figure = plots.prior_check(small_law, draws=200)
    left, right = figure.axes
    finished = pocket[~pocket["diverged"]]
    drawn = np.concatenate([line.get_xdata() for line in left.lines])
    np.testing.assert_allclose(np.sort(drawn), np.sort(finished["final_loss"]))
    low = np.array([b.get_x() for b in left.patches])
    high = low + [b.get_width() for b in left.patches]
    assert low.min() < finished["final_loss"].min() and high.max() > finished["final_loss"].max()
    assert texts(right.yaxis)[:2] == ["4 x parameters", "4 x tokens"]
    more_parameters, more_tokens = right.patches[0], right.patches[2]
    for bar in (more_parameters, more_tokens):  # published slopes: both lower the loss
        assert bar.get_x() + bar.get_width() / 2 < 0


def test_exponents_are_probabilities_by_group(small_law):
    figure = plots.exponents(small_law)
    groups = small_law.posterior["posterior"]["exponent_group"].to_numpy()
    assert len(figure.axes) == len(groups)
    for ax in figure.axes:
        heights = [bar.get_height() for bar in ax.patches]
        assert sum(heights) == pytest.approx(1)
        assert len(heights) == len(ax.get_xticks())


def test_predictions_compare_with_what_was_observed(small_law, pocket):
    finished = pocket[~pocket["diverged"]]
    figure = plots.predictions(small_law)
    (ax,) = figure.axes
    assert "in-sample" in ax.get_title() and "232 runs" in ax.get_title()
    dots = [line for line in ax.lines if line.get_marker() not in ("None", None)]
    drawn = np.concatenate([np.asarray(d.get_xdata(), float) for d in dots])
    np.testing.assert_allclose(np.sort(drawn), np.sort(finished["final_loss"]))
    assert len(dots) == len(ax.get_legend().get_texts()) == 7

    few = finished.iloc[:3]
    (ax,) = plots.predictions(small_law, few).axes
    assert "runs given" in ax.get_title() and "3 runs" in ax.get_title()


def test_predictive_check_has_a_band_and_all_runs_of_every_cell(small_law, pocket):
    figure = plots.predictive_check(small_law)
    (ax,) = figure.axes
    assert len(texts(ax.yaxis)) == 7 and len(ax.patches) == 2 * 7
    wide, narrow = (ax.patches[i].get_width() for i in (0, 1))
    assert wide > narrow > 0
    points = sum(len(line.get_xdata()) for line in ax.lines if line.get_marker() == ".")
    assert points == int((~pocket["diverged"]).sum())


def test_loss_surface_shows_runs_failures_and_the_lowest_point(small_law, pocket):
    figure = plots.loss_surface(small_law, n_params=246240, tokens=2457600, grid=9)
    ax, bar = figure.axes
    here = pocket[(pocket["n_params"] == 246240) & (pocket["tokens"] == 2457600)]
    runs = next(c for c in ax.collections if c.get_label() == "run")
    assert len(runs.get_offsets()) == int((~here["diverged"]).sum())
    crosses = next(c for c in ax.collections if c.get_label() == "diverged run")
    assert len(crosses.get_offsets()) == int(here["diverged"].sum())
    star = next(line for line in ax.lines if line.get_label() == "lowest expected loss")
    share = pocket["warmup_steps"] / pocket["steps"]
    grid = pd.DataFrame(
        {
            "n_params": 246240.0,
            "tokens": 2457600.0,
            "batch_tokens": 1024.0,
            "peak_lr": np.repeat(np.geomspace(0.003, 0.15, 9), 9),
            "warmup_steps": np.tile(np.geomspace(share.min(), share.max(), 9) * 2400, 9),
            "schedule": "linear",
        }
    )
    loss = small_law.predict(grid, kind="mean")["loss_mean"]
    at_star = grid.assign(peak_lr=star.get_xdata()[0], warmup_steps=star.get_ydata()[0]).iloc[:1]
    found = small_law.predict(at_star, kind="mean")["loss_mean"].iloc[0]
    assert found <= loss.min() + 1e-3
    assert "nats" in bar.get_ylabel() and ax.get_xscale() == "log"


def test_loss_surface_hatches_what_diverges_and_puts_the_star_elsewhere(small_law, pocket):
    figure = plots.loss_surface(small_law, n_params=246240, tokens=2457600, grid=9)
    ax = figure.axes[0]
    hatched = [c for c in ax.collections if getattr(c, "hatches", [None]) == ["///"]]
    assert len(hatched) == 1 and "diverges with 50 % or more" in ax.get_legend_handles_labels()[1]
    region = hatched[0].get_paths()[0].vertices
    failed = pocket[pocket["diverged"] & (pocket["n_params"] == 246240)]
    assert region[:, 0].min() < failed["peak_lr"].max() <= region[:, 0].max() * (1 + 1e-9)
    star = next(line for line in ax.lines if line.get_label() == "lowest expected loss")
    at_star = {"n_params": 246240, "tokens": 2457600, "batch_tokens": 1024, "schedule": "linear",
               "peak_lr": star.get_xdata()[0], "warmup_steps": star.get_ydata()[0]}  # fmt: skip
    assert small_law.predict(pd.DataFrame([at_star]))["p_diverge"].iloc[0] < 0.5


def test_stable_region_is_the_probability_of_divergence(small_law, pocket):
    figure = plots.stable_region(small_law, n_params=246240, tokens=2457600, grid=9)
    ax, bar = figure.axes
    here = pocket[(pocket["n_params"] == 246240) & (pocket["tokens"] == 2457600)]
    dots = {c.get_label(): len(c.get_offsets()) for c in ax.collections if c.get_label()}
    assert dots["run that finished"] == int((~here["diverged"]).sum())
    assert dots["diverged run"] == int(here["diverged"].sum())
    assert bar.get_ylabel() == "probability that the run diverges"
    solid = next(
        c for c in ax.collections
        if isinstance(c, QuadContourSet) and not c.filled and c.get_linestyle()[0][1] is None
    )  # fmt: skip
    edge = solid.get_paths()[0].vertices
    on_edge = pd.DataFrame(
        {"n_params": 246240, "tokens": 2457600, "batch_tokens": 1024, "schedule": "linear",
         "peak_lr": edge[:, 0], "warmup_steps": edge[:, 1]}
    )  # fmt: skip
    risk = small_law.predict(on_edge, max_draws=500)["p_diverge"]
    # the line is interpolated between points of a coarse grid
    assert abs(risk.mean() - 0.5) < 0.15


def test_stable_region_needs_a_divergence_part(small_law):
    law = replace(small_law.fitted, divergence_priors=None)
    with pytest.raises(ValueError, match="does not model divergence"):
        plots.stable_region(law, n_params=246240, tokens=2457600, grid=4)


def test_tie_graph_joins_the_pairs_that_are_not_told_apart(rng):
    loss = 2.0 + rng.normal(0.0, 0.01, (4000, 5)) + np.array([0.0, 0.0, 0.008, 0.1, 0.1])
    draws = xr.DataArray(loss, dims=("sample", "candidate"), coords={"candidate": list("abcde")})
    ranking = Ranking.from_draws(draws, tie=0.001)
    (ax,) = plots.tie_graph(ranking).axes
    order = list(ranking.table.index)
    expected = set()
    for i, first in enumerate(order):
        for second in order[i + 1 :]:
            gap = (draws.sel(candidate=second) - draws.sel(candidate=first)).to_numpy()
            if max(np.mean(gap > 0.001), np.mean(gap < -0.001)) < 0.9:
                expected.add((i, order.index(second)))
    drawn = {(round(arc.center[1] - arc.height / 2), round(arc.center[1] + arc.height / 2))
             for arc in ax.patches}  # fmt: skip
    assert drawn == expected and 2 <= len(drawn) < 10
    assert f"{len(drawn)} of 10 pairs" in ax.get_title(loc="left")
    assert texts(ax.yaxis) == order
    with pytest.raises(ValueError, match="at least two"):
        plots.tie_graph(Ranking.from_draws(draws[:, :1]))


def test_pit_counts_the_runs_left_out(small_law):
    (ax,) = plots.pit(small_law, bins=5).axes
    (bars,) = [p for p in ax.patches if isinstance(p, StepPatch)]
    values = loo_pit(small_law.fitted)
    np.testing.assert_allclose(
        bars.get_data().values, np.histogram(values, bins=5, range=(0, 1))[0] * 5 / len(values)
    )
    inside = 100 * np.mean((values > 0.25) & (values < 0.75))
    assert f"in 50 % intervals: {inside:.0f} %" in ax.get_title()


def test_calibration_draws_a_row_a_study_and_what_is_asked_for(tmp_path):
    def curves(methods):
        return pd.concat(
            pd.DataFrame({"method": m, "curve": c, "x": [0.6, 0.8, 1.0], "y": [0.5, 0.7, 0.9],
                          "n": [40, 40, 3]})
            for m in methods for c in ("coverage", "pit", "pairs")
        )  # fmt: skip

    curves(["a", "b"]).to_csv(tmp_path / "one-curves.csv", index=False)
    curves(["a"]).to_csv(tmp_path / "two-curves.csv", index=False)
    figure = plots.calibration(tmp_path)
    assert len(figure.axes) == 6
    assert [ax.get_title(loc="left") for ax in figure.axes[::3]] == ["one", "two"]
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["a", "b"]
    pairs = figure.axes[2].lines
    assert [len(line.get_xdata()) for line in pairs] == [2, 2, 2]  # diagonal; a and b without few
    only = plots.calibration({"x": curves(["a", "b"])}, methods=["b"])
    assert [t.get_text() for t in only.legends[0].get_texts()] == ["b"]
    with pytest.raises(FileNotFoundError, match="run the evaluation first"):
        plots.calibration(tmp_path / "nothing here")
    with pytest.raises(ValueError, match="lack curve, y"):
        plots.calibration(pd.DataFrame({"method": ["a"], "x": [1.0]}))
    with pytest.raises(ValueError, match="none of these methods"):
        plots.calibration(curves(["a"]), methods=["c"])


def test_loss_surface_of_wsd_stays_inside_the_run(small_law):
    figure = plots.loss_surface(
        small_law, n_params=1e5, tokens=4e6, schedule="wsd", cooldown=0.3, grid=4
    )
    assert figure.axes[0].get_ylim()[1] <= 0.7 * 4e6 / 1024 * 1.001
    with pytest.raises(ValueError, match="'polygon'"):
        plots.loss_surface(small_law, n_params=1e5, tokens=4e6, schedule="polygon")
    with pytest.raises(ValueError, match="share of the run"):
        plots.loss_surface(small_law, n_params=1e5, tokens=4e6, schedule="wsd", cooldown=1.5)


def test_schedules_show_curves_and_their_integrals():
    given = {
        "short": Schedule.linear(peak_lr=1.0, steps=100, warmup_steps=20),
        "flat": Schedule.wsd(peak_lr=2.0, steps=100, warmup_steps=20, cooldown_start_step=60),
    }
    figure = plots.schedules(given)
    curve, *bars = figure.axes
    assert [line.get_label() for line in curve.lines] == ["short", "flat"]
    assert curve.lines[1].get_ydata().max() == 2.0
    drawn = np.array([[bar.get_width() for bar in ax.patches] for ax in bars]).T
    # Areas and squared slopes of the two shapes by hand: C_w, C_c, E_w, E_c.
    np.testing.assert_allclose(drawn, [[10, 40, 1 / 20, 1 / 80], [20, 120, 4 / 20, 4 / 40]])


def test_schedules_of_a_table_are_named_and_told_apart():
    plan = demo.candidates()
    curve = plots.schedules(plan).axes[0]
    assert [line.get_label() for line in curve.lines] == list(plan.index)
    styles = {(line.get_color(), line.get_linestyle()) for line in curve.lines}
    assert len(styles) == len(plan)
    with pytest.raises(ValueError, match="choose 1 to 12"):
        plots.schedules([])
    row = Schedule.from_array([0, 1, 0.5, 0]).to_row() | {
        "n_params": 1e6, "batch_tokens": 1e3, "run_id": "own"
    }  # fmt: skip
    with pytest.raises(ValueError, match="give the Schedule object"):
        plots.schedules(pd.DataFrame([row]))


def test_resolution_is_that_of_the_rankings(small_law):
    plan = demo.candidates()
    figure = plots.resolution(small_law, plan, factors=(4, 1), by="tokens")
    (ax,) = figure.axes
    new_run, mean, spread = (line.get_ydata() for line in ax.lines)
    assert new_run[0] == pytest.approx(small_law.rank(plan, kind="new_run").resolution)
    assert mean[0] == pytest.approx(small_law.rank(plan, kind="mean").resolution)
    assert (new_run > mean).all() and (np.asarray(spread) > 0).all()
    stretched = plan.assign(tokens=plan["tokens"] * 4, warmup_steps=plan["warmup_steps"] * 4,
                            cooldown_start_step=plan["cooldown_start_step"] * 4)  # fmt: skip
    assert new_run[1] == pytest.approx(small_law.rank(stretched, kind="new_run").resolution)
    with pytest.raises(ValueError, match="at least two"):
        plots.resolution(small_law, plan.iloc[:1])
    with pytest.raises(ValueError, match="must be 'tokens'"):
        plots.resolution(small_law, plan, by="steps")


def test_ranks_and_pairs_are_those_of_the_ranking(ranking):
    for figure in (plots.ranks(ranking), plots.pairs(ranking)):
        assert isinstance(figure, Figure)
        assert set(ranking.table.index) <= set(texts(figure.axes[0].yaxis))
