"""Near ties: pinned arithmetic on the paper's tables, measured rankings, seeds to decide."""

import numpy as np
import pandas as pd
import pytest
from scipy import integrate, stats

from bayes_optlaws import datasets
from bayes_optlaws.decision.near_ties import (
    ContrastError,
    contrast_error,
    flip_probability,
    measured_ranking,
    paper_pairs,
    resolution_limit,
    score_error,
    seeds_to_separate,
)


@pytest.fixture(scope="module")
def paper_sets() -> pd.DataFrame:
    """Tables 4 and 5 in one, with the column ``set``."""
    four, five = datasets.load("paper-table-4"), datasets.load("paper-table-5")
    five = five.assign(set=five["tokens_billion"].map("{:g}B".format))
    return pd.concat([four.assign(set=four["shift"]), five], ignore_index=True)


@pytest.fixture(scope="module")
def table_2_error() -> ContrastError:
    t = datasets.load("paper-table-2")
    return contrast_error(t["actual_loss"], t["predicted_loss"], t["group"])


def test_error_of_table_2_by_hand(table_2_error):
    """Predicted less actual, thousandths: (-1 -1 0), (-1 -3 -2 7), (1 1 1); 7 of freedom."""
    squares = (1 / 3) ** 2 * 2 + (2 / 3) ** 2 + 1.25**2 + 3.25**2 + 2.25**2 + 6.75**2
    assert table_2_error.sd == pytest.approx(1e-3 * np.sqrt(2 * squares / 7), rel=1e-9)
    assert table_2_error.df == 7 and table_2_error.slope == 1


def test_weak_shift_near_tie_of_the_paper(paper_sets, table_2_error):
    """The figures of notebooks/04: ranks 1 and 2 are 0.001 nats apart."""
    pairs = paper_pairs(paper_sets, table_2_error, set_column="set", noise_sd=0.001)
    weak = pairs.loc["weak"]
    assert (weak["first"], weak["second"]) == ("Const+Linear", "Linear")
    assert weak["gap"] == pytest.approx(0.001, abs=1e-9)
    assert weak["predicted_gap"] == pytest.approx(-0.020, abs=1e-9)  # the law has them reversed
    # By Monte Carlo: true gap, then the law's, with its sd drawn from scaled inverse chi-square.
    rng = np.random.default_rng(1)
    n = 400_000
    sd = table_2_error.sd * np.sqrt(7 / rng.chisquare(7, n))
    true = 0.001 + rng.normal(0, np.sqrt(2 * 0.001**2 + 0.001**2 / 6), n)
    flipped = np.mean(true + sd * rng.standard_normal(n) < 0)
    assert weak["p_law"] == pytest.approx(flipped, abs=4 * 0.5 / np.sqrt(n))
    assert weak["p_law"] == pytest.approx(0.416, abs=1e-3)
    # The whole set spans 0.005: less than the gap that such a law can call.
    spread = np.ptp(paper_sets.query("set == 'weak'")["observed_loss"])
    assert spread < weak["resolution"]


def test_resolution_limit_of_the_paper(table_2_error):
    """0.0060 nats (0.0043 to 0.0100): quantiles of a scaled inverse chi-square, by simulation."""
    limit, lower, upper = resolution_limit(table_2_error, noise_sd=0.001)
    assert (limit, lower, upper) == pytest.approx((0.0060, 0.0043, 0.0100), abs=5e-5)
    rng = np.random.default_rng(2)
    sd2 = table_2_error.sd**2 * 7 / rng.chisquare(7, 400_000)
    drawn = stats.norm.ppf(0.9) * np.sqrt(sd2 + 2e-6)
    assert np.quantile(drawn, [0.5, 0.05, 0.95]) == pytest.approx([limit, lower, upper], rel=5e-3)


def test_scores_are_ten_times_wider_than_losses(paper_sets):
    """One slope for all sets, against numpy's least squares on dummies."""
    e = score_error(paper_sets["observed_loss"], paper_sets["predicted_score"], paper_sets["set"])
    dummies = pd.get_dummies(paper_sets["set"]).to_numpy(float)
    x = np.column_stack([paper_sets["predicted_score"], dummies])
    fit, squares, *_ = np.linalg.lstsq(x, paper_sets["observed_loss"])
    assert e.slope == pytest.approx(fit[0]) and e.df == len(x) - x.shape[1]
    assert e.sd == pytest.approx(np.sqrt(2 * squares[0] / e.df))
    assert 0.05 < e.slope < 0.1


def test_each_set_is_judged_by_the_others(paper_sets):
    whole = paper_pairs(paper_sets, set_column="set")
    changed = paper_sets.copy()
    weak = changed["set"] == "weak"
    changed.loc[weak, "predicted_score"] *= 3
    again = paper_pairs(changed, set_column="set")
    assert again.loc["weak", "resolution"] == whole.loc["weak", "resolution"]
    assert again.loc["weak", "predicted_gap"] == pytest.approx(
        3 * whole.loc["weak", "predicted_gap"]
    )
    assert again.loc["strong", "resolution"] != whole.loc["strong", "resolution"]


def test_flip_probability_of_fresh_runs_by_quadrature():
    """P(fresh difference < 0): its variance is twice that of the observed one, plus rounding."""
    gap, noise = 0.001, 0.0015
    sd = np.sqrt(2 * noise**2 + 1e-6 / 6)
    exact, _ = integrate.quad(
        lambda d: stats.norm.pdf(d, gap, sd) * stats.norm.cdf(0, d, np.sqrt(2) * noise),
        gap - 9 * sd,
        gap + 9 * sd,
    )
    found = flip_probability(gap, noise_sd=noise, reruns=True)
    assert found == pytest.approx(exact, abs=1e-8)
    assert flip_probability(0.0, noise_sd=noise) == 0.5
    with pytest.raises(ValueError, match="not negative"):
        flip_probability(-0.1)


def test_seeds_to_separate_do_what_they_say(rng):
    """Simulated: with that many seeds each the means fall in the true order 9 times of 10."""
    gap, noise = 0.001, 0.002
    n = int(seeds_to_separate(gap, noise, 0.9))
    means = noise / np.sqrt(n) * rng.standard_normal((40_000, 2))
    right = np.mean(means[:, 0] < means[:, 1] + gap)
    assert 0.9 - 0.006 <= right < 0.92
    assert seeds_to_separate(0.0, noise) == np.inf


def simulated(rng: np.random.Generator, seeds: int = 5, seed_sd: float = 0.01) -> pd.DataFrame:
    means = {"a": 1.0, "b": 1.002, "c": 1.01}
    shared = seed_sd * rng.standard_normal(seeds)
    rows = [
        {"name": k, "seed": s, "final_loss": m + shared[s] + 0.002 * rng.standard_normal()}
        for s in range(seeds)
        for k, m in means.items()
    ]
    return pd.DataFrame(rows)


def test_measured_ranking_is_the_paired_t_distribution(rng):
    """P(a below b) of a balanced design: t with (S - 1)(C - 1) degrees of freedom."""
    runs = simulated(rng)
    ranking = measured_ranking(runs, n_draws=40_000)
    table = runs.pivot(index="seed", columns="name", values="final_loss")
    rest = table - table.mean()
    rest = rest.sub(rest.mean(axis=1), axis=0)
    sd = np.sqrt((rest**2).to_numpy().sum() / 8)
    t = (table["b"] - table["a"]).mean() / (sd * np.sqrt(2 / 5))
    assert ranking.p_better.loc["a", "b"] == pytest.approx(stats.t.cdf(t, 8), abs=4 * 0.5 / 200)
    assert ranking.draws.attrs["noise_sd"] == pytest.approx(sd)
    # The level keeps the noise of the seeds, which the order does not have.
    width = ranking.table["loss_upper"] - ranking.table["loss_lower"]
    exact = 2 * stats.t.ppf(0.95, 4) * table.mean(axis=1).std() / np.sqrt(5)
    assert width.mean() == pytest.approx(exact, rel=0.1)


def test_measured_ranking_without_common_seeds(rng):
    runs = simulated(rng, seed_sd=0.0).drop(index=[0, 4])
    ranking = measured_ranking(runs, n_draws=40_000)
    by = runs.groupby("name")["final_loss"]
    sd = np.sqrt(sum((g - g.mean()).pow(2).sum() for _, g in by) / (len(runs) - 3))
    n = by.size()
    t = (by.mean()["b"] - by.mean()["a"]) / (sd * np.sqrt(1 / n["a"] + 1 / n["b"]))
    df = len(runs) - 3
    assert ranking.p_better.loc["a", "b"] == pytest.approx(stats.t.cdf(t, df), abs=0.01)
    with pytest.raises(ValueError, match="run once"):
        measured_ranking(simulated(rng, seeds=1))


def test_measured_weak_shift_ties_const_linear_and_linear():
    """The near tie of the paper, measured: the same two schedules first, their order open."""
    runs = datasets.load("pocket-stages").query("block == 'weak_d128_12000' and peak_lr == 0.001")
    ranking = measured_ranking(runs)
    assert list(ranking.table.index[:2]) == ["Const+Linear", "Linear"]
    pair = ranking.flips.iloc[0]
    assert pair["verdict"] == "coin flip" and 0.3 < pair["p_flip"] < 0.5
    assert (ranking.table["p_best_or_tied"].iloc[:2] > 0.8).all()
    assert ranking.table.index[-1] == "Polygon1"
