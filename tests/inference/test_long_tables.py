"""Long candidate tables: fewer draws, in parts, with the same answer within Monte-Carlo error."""

import numpy as np
import pandas as pd

from bayes_optlaws.decision.rank import rank
from bayes_optlaws.inference.fitted import CHUNK
from bayes_optlaws.inference.loss_draws import FEWEST_DRAWS, MOST_NUMBERS, draws_for
from bayes_optlaws.runs.readers import read_candidates

SETTINGS = ["n_params", "tokens", "batch_tokens", "peak_lr", "warmup_steps", "schedule"]


def many(pocket, n):
    """The pocket grid's last run at n peak LRs."""
    table = pd.concat([pocket[SETTINGS].tail(1)] * n, ignore_index=True)
    return read_candidates(table.assign(peak_lr=np.geomspace(2e-3, 3e-2, n)))


def test_numbers_stay_bounded_and_draws_enough():
    for n in (1, 10, 5_000, 50_000, 1_000_000):
        draws = draws_for(n, 4000)
        assert FEWEST_DRAWS <= draws <= 4000
        assert draws * n <= max(MOST_NUMBERS, FEWEST_DRAWS * n)
    assert draws_for(1_000_000, 100) == 100  # never more than asked for


def test_both_kinds_of_draws_are_those_of_each_kind(small_law, pocket):
    law, table = small_law.fitted, many(pocket, 7)
    pair = law.draw_losses(table, 5, max_draws=500)
    for kind, found in zip(("mean", "new_run"), pair, strict=True):
        alone = law.draw_loss(table, kind, np.random.default_rng(5), max_draws=500)
        np.testing.assert_array_equal(found.loss, alone.loss)
        np.testing.assert_array_equal(found.risk, alone.risk)
        assert found.noise_sd == alone.noise_sd


def test_a_long_table_is_predicted_as_a_short_one(small_law, pocket):
    law, n = small_law.fitted, 6 * CHUNK
    long = law.predict(many(pocket, n), max_draws=1600)
    some = np.arange(0, n, n // 9)
    short = law.predict(many(pocket, n).iloc[some], max_draws=1600)
    draws = draws_for(n, 1600)
    assert draws < 1600
    error = short["loss_sd"].to_numpy() / np.sqrt(draws)
    gap = (long.iloc[some]["loss_mean"].to_numpy() - short["loss_mean"].to_numpy()) / error
    assert np.abs(gap).max() < 4
    # the sd of a quantile of a normal at 0.05 and 0.95 is 2.1 times that of the mean
    for column in ("loss_lower", "loss_upper"):
        gap = long.iloc[some][column].to_numpy() - short[column].to_numpy()
        assert np.abs(gap / (2.1 * error)).max() < 4


def test_a_long_ranking_keeps_the_best_of_a_short_one(small_law, pocket):
    law, n = small_law.fitted, 4 * CHUNK
    table = many(pocket, n)
    long = rank(law, table)
    best = rank(law, table.iloc[:: n // 40])
    gap = abs(
        np.log(
            table.loc[long.table.index[0], "peak_lr"] / table.loc[best.table.index[0], "peak_lr"]
        )
    )
    step = np.log(15.0) / 40
    assert gap <= 3 * step
    assert long.table["expected_regret"].iloc[0] <= best.table["expected_regret"].iloc[0] + long.tie
