"""The shipped tables, checked by arithmetic and by rebuilding them."""

import importlib.util
import itertools
import json
import re
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr

from bayes_optlaws import datasets
from bayes_optlaws.runs.readers import read_runs

DATA = Path(__file__).resolve().parents[2] / "data"


def paper(number: int) -> pd.DataFrame:
    return datasets.load(f"paper-table-{number}")


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"pocket_{name}", DATA / "pocket" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def possible_error_pct(actual: pd.Series, predicted: pd.Series) -> tuple[np.ndarray, np.ndarray]:
    """Smallest and largest relative error (%) of two losses that were rounded to 3 decimals."""
    gap = np.abs(actual - predicted).to_numpy()
    low = np.maximum(gap - 1e-3, 0) / (actual + 5e-4)
    high = (gap + 1e-3) / (actual - 5e-4)
    return 100 * low.to_numpy(), 100 * high.to_numpy()


@pytest.mark.parametrize(("number", "decimals"), [(2, 2), (13, 1)])
def test_errors_follow_from_actual_and_predicted_loss(number, decimals):
    t = paper(number)
    low, high = possible_error_pct(t["actual_loss"], t["predicted_loss"])
    printed = t["error_pct"].to_numpy()
    half = 0.5 * 10.0**-decimals
    assert np.all(printed + half >= low) and np.all(printed - half <= high)


def test_table_2_transition_points_are_in_order_and_inside_the_run():
    t = pd.concat([paper(2), paper(4)])
    steps = t["tokens_billion"] * 1e9 / (2048 * 2048)
    assert (t["warmup_steps"] <= t["decay_end_step"]).all()
    assert (t["decay_end_step"] <= t["cooldown_start_step"]).all()
    assert (t["cooldown_start_step"] < steps).all()


def test_lost_learning_rates_stay_empty():
    for number in (2, 4, 5):
        assert paper(number)["peak_lr"].isna().all()
    assert paper(2)["plateau_lr"].isna().all() and paper(4)["plateau_lr"].isna().all()


def test_table_3_overall_error_is_the_mean_over_runs():
    t = paper(3).set_index("method")
    groups = ["single_phase_300b", "multi_phase_100b", "loss_equivalent_100b"]
    runs = np.array([3, 4, 3]) / 10
    mean = t[[f"{g}_error_pct" for g in groups]].to_numpy() @ runs
    off = np.abs(mean - t["all_error_pct"])
    # Rounding to 0.1 of the groups and of the mean moves each by up to 0.05.
    consistent = off.drop("Linear regression")
    assert (consistent <= 0.1).all()
    assert off["Linear regression"] == pytest.approx(0.33, abs=0.005)  # as printed, see README


@pytest.mark.parametrize("number", [4, 5])
def test_ranks_follow_from_losses_and_scores(number):
    t = paper(number)
    for _, group in t.groupby("shift" if number == 4 else "tokens_billion"):
        assert (group["observed_loss"].rank() == group["actual_rank"]).all()
        assert (group["predicted_score"].rank() == group["predicted_rank"]).all()


def test_table_5_gaps_are_those_of_the_text():
    """Section 5.4: score gaps 0.20 and 0.11, loss gaps 0.016 and 0.010 at 3B and 30B tokens."""
    groups = paper(5).groupby("tokens_billion")
    score = groups["predicted_score"].agg(np.ptp).round(2)
    loss = groups["observed_loss"].agg(np.ptp).round(3)
    assert (score[3], score[30]) == (0.20, 0.11)
    assert (loss[3], loss[30]) == (0.016, 0.010)


def test_table_6_expert_and_activated_parameters_are_parts_of_the_total():
    t = paper(6)
    assert (t["expert_params_billion"] < t["total_params_billion"]).all()
    assert (t["activated_params_billion"] < t["total_params_billion"]).all()
    assert t["total_params_billion"].is_monotonic_increasing
    # All that is not expert is active for every token.
    shared = t["total_params_billion"] - t["expert_params_billion"]
    assert (t["activated_params_billion"] > shared).all()


def test_table_7_sums():
    t = paper(7)
    assert (t["n_convergent"] + t["n_divergent"] == t["n_runs"]).all()
    assert t[["n_runs", "n_convergent", "n_divergent"]].sum().tolist() == [260, 234, 26]


@pytest.mark.parametrize("number", [1, 9, 11])
def test_hit_rates_are_counts_out_of_7_blocks_by_5_folds(number):
    possible = {round(100 * k / 35) for k in range(36)}
    assert set(paper(number)["top2_pct"]) <= possible


def test_full_model_is_the_same_row_in_tables_1_9_and_11():
    full = paper(1).iloc[-1]
    ablation, default = paper(9).iloc[-1], paper(11).iloc[0]
    columns = ["r2", "relative_error_pct", "spearman", "top2_pct", "regret"]
    assert full[columns].tolist() == ablation[columns].tolist()
    columns = ["r2", "spearman", "top2_pct"]
    assert full[columns].tolist() == default[columns].tolist()


def test_table_10_summary_rows_and_its_agreement_with_tables_2_and_4():
    """Printed below the rows: mean 0.15 and 0.23, maximum 0.35 and 0.51, Spearman as below."""
    t = paper(10)
    parts = dict(list(t.groupby("part")))
    errors = parts["pre-training"][["default_error_pct", "with_decay_error_pct"]]
    assert errors.max().tolist() == [0.35, 0.51]
    assert np.abs(errors.mean() - [0.15, 0.23]).max() <= 0.005 + 1e-12
    correlations = {"continual-strong": (1.00, 1.00), "continual-weak": (0.90, 0.30)}
    for part, expected in correlations.items():
        rows = parts[part]
        for treatment, value in zip(("default", "with_decay"), expected, strict=True):
            score = rows[f"{treatment}_score"]
            assert (score.rank() == rows[f"{treatment}_rank"]).all()
            assert spearmanr(rows["actual_loss"], score).statistic == pytest.approx(value)
    table_2 = paper(2).set_index("actual_loss")["error_pct"]
    assert (
        parts["pre-training"]
        .set_index("actual_loss")["default_error_pct"]
        .equals(table_2[parts["pre-training"]["actual_loss"]].rename("default_error_pct"))
    )
    table_4 = set(zip(paper(4)["observed_loss"], paper(4)["predicted_score"], strict=True))
    continual = t[t["part"] != "pre-training"]
    assert set(zip(continual["actual_loss"], continual["default_score"], strict=True)) == table_4


@pytest.mark.parametrize(
    ("method", "hits", "false_alarms"),
    [
        ("R criterion (5-fold)", 23, 1),
        ("Peak-LR threshold", 15, 37),
        ("Logistic regression (LOO)", 11, 4),
    ],
)
def test_table_12_has_one_set_of_confusion_counts(method, hits, false_alarms):
    """Of 26 divergent and 234 other runs, one pair of counts alone gives all four figures."""
    row = paper(12).set_index("method").loc[method]
    found = []
    for tp, fp in itertools.product(range(1, 27), range(235)):
        precision, recall = tp / (tp + fp), tp / 26
        f1 = 2 * precision * recall / (precision + recall)
        balanced = (recall + (234 - fp) / 234) / 2
        figures = np.array([precision, recall, f1, balanced])
        if np.all(np.abs(figures - row.to_numpy(dtype=float)) <= 0.005 + 1e-12):
            found.append((tp, fp))
    assert found == [(hits, false_alarms)]


def test_table_13_best_family_is_predicted_in_every_group():
    """Appendix A.6: "in all five groups, the fitted law correctly identifies the best family"."""
    t = paper(13)
    for _, group in t.groupby(["model", "tokens_billion"]):
        assert len(group) == 3
        assert group["actual_loss"].idxmin() == group["predicted_loss"].idxmin()
    assert (t["error_pct"] < 2).all()


def test_pocket_blocks(pocket):
    counts = pocket.groupby("block")["diverged"].agg(["size", "sum"])
    expected = {
        "d16_1200": (35, 0),
        "d16_3600": (40, 0),
        "d32_1200": (35, 4),
        "d32_3600": (40, 2),
        "d64_1200": (35, 7),
        "d64_3600": (40, 8),
        "d96_2400": (35, 7),
    }
    assert {k: tuple(v) for k, v in counts.iterrows()} == expected


def test_pocket_divergence_rule():
    for name in ("pocket", "pocket-replicates"):
        table = datasets.load(name)
        assert (table["diverged"] == (table["final_loss"] > 2.448)).all()


def test_pocket_follows_its_plan():
    for plan, name in (("grid.json", "pocket"), ("replicates.json", "pocket-replicates")):
        runs = datasets.load(name).set_index("run_id")
        jobs = json.loads((DATA / "pocket" / plan).read_text())
        for job in jobs if name == "pocket" else jobs[:1]:
            for i, config in enumerate(job["configs"]):
                run = runs.loc[f"{job['name']}-{i:03d}"]
                assert (run["peak_lr"], run["warmup_steps"]) == (
                    config["peak_lr"],
                    config["warmup"],
                )
                assert (run["size"], run["steps"], run["seed"]) == (
                    job["size"],
                    job["steps"],
                    job["seed"],
                )
                assert run["tokens"] == job["steps"] * job["batch"] * job["ctx"]


def test_plan_files_are_what_make_plan_writes():
    for name, jobs in script("make_plan").plans().items():
        assert json.loads((DATA / "pocket" / name).read_text()) == jobs


@pytest.mark.parametrize("name", ["pocket", "pocket-families", "pocket-longer"])
def test_a_row_becomes_the_job_that_trained_it(name):
    plan = script("make_plan")
    jobs = {job["name"]: job for jobs in plan.plans().values() for job in jobs}
    table = datasets.load(name).query("seed == 0").sort_values("run_id")
    for block, rows in table.groupby("block"):
        planned = jobs[block]
        for row, config in zip(rows.to_dict("records"), planned["configs"], strict=True):
            job = plan.job_of(row)
            same = ("size", "steps", "batch", "ctx", "corpus")
            assert {k: job[k] for k in same} == {k: planned[k] for k in same}
            assert (job["name"], job["seed"]) == (row["run_id"], 0)
            expected = {"schedule": "linear", **config}
            expected.pop("name", None)
            assert job["configs"] == [pytest.approx(expected)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_params": 5_000}, "r: n_params 5,000 is none of"),
        ({"tokens": 1_500}, "r: tokens 1500 must be a multiple"),
        ({"batch_tokens": 100, "tokens": 1_000}, "and that of 64"),
        ({"min_lr": 1e-4}, "r: min_lr is 0.0001"),
        ({"schedule": "constant"}, "r: schedule 'constant' is none of"),
    ],
)
def test_a_row_that_cannot_be_trained_is_refused(change, message):
    row = {
        "run_id": "r", "n_params": 10_320, "tokens": 10_240, "batch_tokens": 1024,
        "peak_lr": 0.01, "warmup_steps": 2, "schedule": "linear",
    }  # fmt: skip
    with pytest.raises(ValueError, match=message):
        script("make_plan").job_of(row | change)


def test_a_name_that_was_trained_with_other_settings_is_refused():
    plan, done = script("make_plan"), datasets.load("pocket-loop")
    for row in done.to_dict("records"):
        plan.check_same(plan.job_of(row), done)
        plan.check_same(plan.job_of(row | {"run_id": "new", "peak_lr": 0.1}), done)
        with pytest.raises(
            ValueError, match="is trained already, with peak_lr .* the plan has 0.1"
        ):
            plan.check_same(plan.job_of(row | {"peak_lr": 0.1}), done)


def test_the_runs_of_the_loop_continue_the_grid(pocket):
    new = datasets.load("pocket-loop")
    both = read_runs(pd.concat([pocket, new], ignore_index=True))
    assert len(both) == len(pocket) + 3 and not new["diverged"].any()
    # none of them was there: a plan for the half of the grid proposes other settings
    keys = ["n_params", "tokens", "peak_lr", "warmup_steps"]
    assert not both[keys].duplicated().any()


def test_table_is_rebuilt_from_results(tmp_path):
    """Results in the columns that train.py writes give back runs.csv, byte for byte."""
    make_runs = script("make_runs")
    runs = pd.read_csv(DATA / "pocket" / "runs.csv")
    for block, rows in runs.groupby("block"):
        results = rows.rename(columns={"final_loss": "val_loss"})
        results.drop(columns=["run_id", "group", "diverged"]).to_csv(
            tmp_path / f"{block}.csv", index=False
        )
    make_runs.build(tmp_path, "grid.json").to_csv(tmp_path / "rebuilt.csv", index=False)
    assert (tmp_path / "rebuilt.csv").read_text() == (DATA / "pocket" / "runs.csv").read_text()


@pytest.mark.parametrize("name", ["pocket", "pocket-replicates"])
def test_train_loss_is_the_mean_of_the_last_2_percent_of_the_curve(name):
    """Oracle: the stored curves, in float16 (2 to 3 decimals), written apart from the table."""
    curves = datasets.load_curves(name)
    runs = datasets.load(name).set_index("run_id")
    last = curves.groupby("run_id")["step"].transform("max")
    tail = curves[curves["step"] > last - last // 50].groupby("run_id")["loss"].mean()
    np.testing.assert_allclose(tail[runs.index], runs["train_loss"], atol=1e-3)
    # The held-out loss lies near the training loss: one pass over the data cannot be memorised.
    np.testing.assert_allclose(runs["final_loss"], runs["train_loss"], atol=0.1)


def test_parameter_counts_of_the_pocket_models(pocket):
    """Embedding and output head 2 x 128 d, each layer 12 d^2 + 2 d, final norm d."""
    shapes = {"d16": (2, 16), "d32": (2, 32), "d64": (2, 64), "d96": (2, 96)}
    counted = pocket.groupby("size")["n_params"].agg(["min", "max"])
    for size, (layers, d) in shapes.items():
        expected = 2 * 128 * d + layers * (12 * d**2 + 2 * d) + d
        assert counted.loc[size].tolist() == [expected, expected]


def test_data_folders_have_no_large_file():
    sizes = {p.name: p.stat().st_size for p in DATA.rglob("*") if p.is_file()}
    assert max(sizes.values()) < 3_000_000


STAGE_TABLES = ["pocket-seeds", "pocket-families", "pocket-longer", "pocket-stages"]


@pytest.fixture(scope="module")
def stage_runs() -> pd.DataFrame:
    """All runs of stages.json, once."""
    return pd.concat([datasets.load(name) for name in STAGE_TABLES]).drop_duplicates("run_id")


def test_stage_tables_follow_their_plan(stage_runs):
    jobs = json.loads((DATA / "pocket" / "stages.json").read_text())
    runs = stage_runs.set_index("run_id")
    assert len(runs) == sum(len(j["configs"]) * len(j["seeds"]) for j in jobs)
    for job in jobs:
        settings = itertools.product(job["seeds"], job["configs"])
        for i, (seed, config) in enumerate(settings):
            run = runs.loc[f"{job['name']}-{i:03d}"]
            planned = (config["peak_lr"], config["warmup"], config["schedule"], config["name"])
            assert tuple(run[["peak_lr", "warmup_steps", "schedule", "name"]]) == planned
            assert (run["size"], run["steps"], run["seed"]) == (job["size"], job["steps"], seed)
            for column, key in {
                "decay_end_step": "decay_end",
                "cooldown_start_step": "cooldown_start",
            }.items():
                assert (np.isnan(run[column]) and key not in config) or run[column] == config[key]


def test_stage_runs_continue_a_run_of_the_stage_before(stage_runs):
    runs = stage_runs.set_index("run_id")
    later = runs[runs["stage"] > 1]
    parent = runs.loc[later["parent"]]
    assert (parent["stage"].to_numpy() == later["stage"] - 1).all()
    assert (parent["size"].to_numpy() == later["size"]).all()
    assert (parent["seed"] == 0).all()
    assert runs.loc[runs["stage"] == 1, "parent"].isna().all()
    assert later.groupby("block")["parent"].nunique().eq(1).all()


@pytest.mark.parametrize("name", STAGE_TABLES[:3])
def test_later_tables_of_the_first_stage_are_run_tables(name):
    runs = read_runs(datasets.load(name))
    assert len(runs) == datasets.describe(name).rows
    assert (runs["diverged"] == (runs["final_loss"] > 2.448)).all()


def test_stage_table_is_a_run_table_in_each_group():
    counts = {}
    for group in ("pocket", "pocket-W", "pocket-S"):
        counts[group] = len(read_runs(datasets.load("pocket-stages"), group=group, min_runs=1))
    assert counts == {"pocket": 3, "pocket-W": 266, "pocket-S": 84}


def test_gpu_runs_agree_with_the_cpu_grid_within_seed_noise(pocket):
    """The figures of data/pocket/README.md: same seed, other device, below half the seed noise."""
    gpu = datasets.load("pocket-seeds")
    for block, mean, sd in [
        ("d16_1200", 0.0019, 0.0054),
        ("d32_1200", -0.0004, 0.0074),
        ("d64_1200", -0.0005, 0.0053),
    ]:
        mine = gpu[gpu["block"] == f"seeds_{block}"]
        loss = np.array([mine.loc[mine["seed"] == k, "final_loss"] for k in range(3)])
        cpu = pocket[pocket["block"] == block]
        calm = (cpu["peak_lr"] < 0.05).to_numpy()
        off = (loss[0] - cpu["final_loss"].to_numpy())[calm]
        assert (off.mean(), off.std()) == pytest.approx((mean, sd), abs=5e-5)
        noise = np.sqrt(loss[:, calm].var(axis=0, ddof=1).mean())
        assert off.std() < noise / 2 or block == "d64_1200"
        assert np.sqrt(np.mean(off**2)) < noise


def test_seed_noise_of_the_readme(stage_runs):
    """Every row of the README's table of sd over seeds and of contrasts, recomputed."""
    lines = (DATA / "pocket" / "README.md").read_text().splitlines()
    pattern = re.compile(r"\| `(\w+)` \| (0\.\d+) \| (0\.\d+) \|")
    quoted = {m[1]: (float(m[2]), float(m[3])) for m in map(pattern.fullmatch, lines) if m}
    assert len(quoted) == stage_runs["block"].nunique() - 1
    settings = ["peak_lr", "warmup_steps", "name"]
    for block, (sd, contrast) in quoted.items():
        runs = stage_runs[stage_runs["block"] == block]
        runs = runs[~runs["diverged"] & (runs["peak_lr"] < 0.05)]
        loss = runs["final_loss"]
        off = loss - loss.groupby(runs["seed"]).transform("mean")
        keys = [runs[c] for c in settings]
        found = [np.sqrt(x.groupby(keys).var().mean()) for x in (loss, off)]
        assert found == pytest.approx([sd, contrast], abs=6e-5)


def test_stage_tables_are_rebuilt_from_results(tmp_path, stage_runs):
    """Results in the columns that train.py writes give back the tables, byte for byte."""
    make_runs = script("make_runs")
    for block, rows in stage_runs.groupby("block"):
        results = rows.rename(
            columns={
                "final_loss": "val_loss",
                "decay_end_step": "decay_end",
                "cooldown_start_step": "cooldown_start",
            }
        )
        results["mid_ratio"] = rows["plateau_lr"] / rows["peak_lr"]
        results = results.sort_values("run_id")
        results.to_csv(tmp_path / f"{block}.csv", index=False)
    for target, kinds in make_runs.STAGE_TABLES.items():
        make_runs.build(tmp_path, "stages.json", kinds).to_csv(tmp_path / "new.csv", index=False)
        assert (tmp_path / "new.csv").read_text() == (DATA / "pocket" / target).read_text()
