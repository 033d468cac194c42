"""Candidates by crossing settings."""

import pytest

import bayes_optlaws as bo

BASE = {"n_params": "1.5B", "tokens": "30B", "batch_tokens": "1M", "warmup": "2%"}


def test_settings_are_crossed_and_rows_named_by_what_differs():
    plan = bo.candidates(
        BASE, peak_lr=["1e-3", 2e-3], schedule=["cosine", "WSD"], cooldown=[0.1, 0.2]
    )
    assert sorted(plan.index) == [
        "cosine lr 1e-3", "cosine lr 2e-3",
        "wsd lr 1e-3 cool-down 10 %", "wsd lr 1e-3 cool-down 20 %",
        "wsd lr 2e-3 cool-down 10 %", "wsd lr 2e-3 cool-down 20 %",
    ]  # fmt: skip
    assert (plan["warmup_steps"] == 600).all() and (plan["n_params"] == 1.5e9).all()
    assert plan.loc["wsd lr 1e-3 cool-down 10 %", "cooldown_start_step"] == 27_000


def test_shares_steps_and_end_rates():
    plan = bo.candidates(BASE, peak_lr=1e-3, warmup=[0, 0.05, 500], schedule="cosine")
    assert plan["warmup_steps"].tolist() == [0, 1500, 500]
    assert plan.index.tolist() == ["warm-up 0", "warm-up 5 %", "warm-up 500"]
    plan = bo.candidates(BASE, peak_lr=[1e-3, 2e-3], schedule="cosine", min_lr_share=[0, 0.1])
    assert sorted(plan["min_lr"]) == [0, 0, 1e-4, 2e-4]
    # the share is kept when the peak is varied
    fixed = BASE | {"peak_lr": 1e-3, "min_lr": 1e-4, "schedule": "linear"}
    assert bo.candidates(fixed, peak_lr=[2e-3])["min_lr"].tolist() == [2e-4]
    assert bo.candidates(fixed).index.tolist() == ["linear lr 1e-3 warm-up 2 %"]


def test_a_row_of_a_run_table_is_a_base(pocket):
    row = pocket.iloc[10]
    plan = bo.candidates(row, peak_lr=[1e-3, 1e-2])
    assert (plan["warmup_steps"] == row["warmup_steps"]).all()
    assert (plan["schedule"] == "linear").all() and (plan["tokens"] == row["tokens"]).all()
    longer = bo.candidates(pocket.iloc[[10]], tokens=["5M", "10M"], schedule=["linear", "constant"])
    assert sorted(longer["tokens"].unique()) == [5e6, 1e7] and len(longer) == 4


def test_trainers_names_in_the_base():
    base = {"num_params": 1e9, "max_steps": 20_000, "global_batch_size": 512, "seq_len": 2048,
            "warmup_ratio": 0.01, "lr_scheduler_type": "cosine_with_min_lr"}  # fmt: skip
    plan = bo.candidates(base, peak_lr=[1e-3])
    assert plan["tokens"].item() == 20_000 * 512 * 2048 and plan["warmup_steps"].item() == 200


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"peak_lr": "fast"}, "peak_lr is 'fast'"),
        ({"peak_lr": -1e-3}, "must be positive"),
        ({"peak_lr": []}, "empty"),
        ({"peak_lr": 1e-3, "cooldown": 1.5}, "below 1"),
        ({"peak_lr": 1e-3, "schedule": "saw"}, "schedule is 'saw'"),
        ({"peak_lr": 1e-3, "schedule": "polygon"}, "by hand"),
        ({}, "peak_lr is neither in the base nor given"),
    ],
)
def test_wrong_settings_are_named(change, words):
    with pytest.raises(ValueError, match=words):
        bo.candidates(BASE, **{"schedule": "linear"} | change)


def test_wrong_bases_are_named(pocket):
    with pytest.raises(ValueError, match="2 rows"):
        bo.candidates(pocket.head(2))
    with pytest.raises(TypeError, match="dict"):
        bo.candidates([1])
    with pytest.raises(bo.RunTableError, match="warm-up"):
        bo.candidates(BASE, peak_lr=1e-3, schedule="linear", warmup=1e6)


def test_the_default_pool_takes_what_a_user_has(pocket, tmp_path):
    plan = pocket.iloc[:2]
    raw = [{"n_params": "0.01M", "tokens": "1.2M", "batch_tokens": 1024, "lr": 1e-2,
            "warmup": 0.05, "schedule": "linear"}]  # fmt: skip
    expected = bo.default_pool(pocket, plan)
    assert bo.default_pool(bo.datasets.load("pocket"), raw).index.equals(expected.index)


def test_pools_take_text():
    runs = bo.pool(n_params="10M", tokens=["1B"], batch_tokens="100k", peak_lr=("1e-4", "1e-2"))
    assert runs["n_params"].unique().tolist() == [1e7] and len(runs) == 5
    with pytest.raises(ValueError, match="numbers only"):
        bo.pool(n_params="big", tokens=1e9, batch_tokens=1e5, peak_lr=1e-3)


def test_a_law_takes_text_lists_and_no_pool(small_law, tmp_path):
    rows = [
        {"run_id": f"lr {lr}", "n_params": "0.115M", "tokens": "3.7M", "batch_tokens": 1024,
         "lr": lr, "warmup": 0.1, "schedule": "linear"}
        for lr in ("1e-2", "2e-2")
    ]  # fmt: skip
    path = tmp_path / "plan.csv"
    bo.candidates(rows[0], peak_lr=["1e-2", "2e-2"]).to_csv(path, index=False)
    assert set(small_law.rank(rows).table.index) == {"lr 1e-2", "lr 2e-2"}
    ranking = small_law.rank(path)
    assert "lr 1e-2" in ranking.answer() or "lr 0.02" in ranking.answer()
    assert small_law.predict(path).index.tolist() == ["lr 0.01", "lr 0.02"]
    plan = small_law.design(decide=path, n_runs=1, progressbar=False)
    assert set(plan.scores.index) == set(bo.default_pool(small_law.runs, path).index)
    same = [
        small_law.suggest(n, tokens, batch, random_seed=1).candidate["peak_lr"].item()
        for n, tokens, batch in ((246_240, 1.5e7, 1024), ("246,240", "15M", "1024"))
    ]
    assert same[0] == same[1]
    with pytest.raises(ValueError, match="'big' is no number"):
        small_law.suggest("big", 1e7, 1024)
