"""The paper's tables on our runs: variants, leads, tables and the page."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.integrate import quad
from scipy.stats import sem, spearmanr

from bayes_optlaws import baselines, datasets
from bayes_optlaws.evaluation.splits import block_labels, make_splits
from bayes_optlaws.model.features import FeatureSet
from bayes_optlaws.runs.readers import read_runs
from bayes_optlaws.schedules import Schedule, integrals
from studies import paper_page, paper_shapes, paper_tables, paper_variants
from studies.held_out import STUDIES

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "studies/results"
STUDY = next(s for s in STUDIES if s.name == "pocket-5fold")


@pytest.fixture(scope="module")
def evaluated():
    return pd.read_csv(RESULTS / "pocket-5fold.csv").set_index(["method", "block"])


def test_blocks_have_the_papers_number_of_features():
    blocks = ("scale", "convergence", "escape", "mixed")
    sizes = [len(paper_variants.SomeBlocks.of(blocks[:i]).features) for i in range(1, 5)]
    assert sizes == datasets.load("paper-table-9")["n_features"].tolist()
    assert (
        paper_variants.SomeBlocks.of(blocks).features == FeatureSet.from_options("paper").features
    )


def test_all_blocks_are_the_law_of_the_evaluation_on_the_same_folds(pocket, evaluated):
    last = paper_variants.blocks_added(pocket).iloc[-1]
    stored = evaluated.loc[("generalized", "all")]
    for name in ("r2", "relative_error", "spearman", "top2", "regret"):
        assert last[name] == pytest.approx(stored[name], rel=1e-4), name


def test_point_metrics_against_least_squares_by_hand(pocket):
    """One exponent for each group: a linear model, fitted by NumPy on the features."""
    exponents = {"scale": (0.3,), "mixed": (0.15,), "escape": (0.3,), "cross": (0.2,)}
    law = baselines.GeneralizedOptLaw(exponents=exponents, level2=False)
    splits = make_splits(pocket, k=5)
    found = paper_variants.point_metrics(law, pocket, splits)
    columns = FeatureSet.from_options(exponents).dictionary(pocket)
    columns = columns / np.abs(columns).max(axis=0)
    log_loss, labels = np.log(pocket["final_loss"].to_numpy()), block_labels(pocket)
    alive = ~pocket["diverged"].to_numpy()
    error, rank, regret = [], [], []
    for split in splits:
        fit = split.fit[alive[split.fit]]
        beta = np.linalg.lstsq(columns[fit], log_loss[fit], rcond=1e-12)[0]
        f, y = np.exp(columns[split.test] @ beta), np.exp(log_loss[split.test])
        error.extend(np.abs(f / y - 1))
        for block in np.unique(labels[split.test]):
            mine = labels[split.test] == block
            rank.append(spearmanr(f[mine], y[mine]).statistic)
            regret.append(y[mine][f[mine].argmin()] - y[mine].min())
    assert found["relative_error"] == pytest.approx(100 * np.mean(error), rel=1e-6)
    assert found["spearman"] == pytest.approx(np.mean(rank), abs=1e-9)
    assert found["regret"] == pytest.approx(np.mean(regret), abs=1e-9)


def test_exponents_are_changed_one_group_at_a_time(pocket):
    found = paper_variants.exponents_changed(pocket)
    chosen = paper_variants.selected_exponents(pocket)
    assert len(found) == 1 + 4 * 4
    for group, name in paper_variants.GROUPS.items():
        mine = found[found["perturbed_group"] == name]
        assert (mine["default"] == chosen[group]).all() and chosen[group] not in set(mine["value"])
    # What is selected has the least training error, so no change of one group fits better.
    finished = pocket[~pocket["diverged"]]

    def training_error(exponents):
        law = baselines.GeneralizedOptLaw(
            exponents={g: (p,) for g, p in exponents.items()}, level2=False
        ).fit(pocket)
        return np.sum(np.log(law.predict(finished) / finished["final_loss"]) ** 2)

    least = training_error(chosen)
    changes = found.dropna(subset="value")
    by_name = {name: group for group, name in paper_variants.GROUPS.items()}
    for name, value in changes[["perturbed_group", "value"]].itertuples(index=False, name=None):
        assert training_error(chosen | {by_name[name]: value}) > least


def test_with_decay_starts_the_integral_at_the_end_of_the_warm_up():
    runs = read_runs(datasets.load("pocket-longer"))
    changed = integrals(paper_variants.with_decay(runs))
    same = integrals(runs)
    for name in ("conv_warmup", "escape_warmup", "escape_cooldown"):
        np.testing.assert_array_equal(getattr(changed, name), getattr(same, name))
    i = int(np.flatnonzero(runs["schedule"] == "polygon")[0])
    row = runs.iloc[i]
    names = ("peak_lr", "steps", "warmup_steps", "decay_end_step", "plateau_lr")
    plan = Schedule.polygon(
        **{n: float(row[n]) for n in names}, cooldown_start_step=float(row["cooldown_start_step"])
    )
    corners = [plan.decay_end_step, plan.cooldown_start_step]
    area = quad(plan.lr, plan.warmup_steps, plan.steps, points=corners)[0]
    assert changed.conv_cooldown[i] == pytest.approx(area, rel=1e-9)
    linear = (runs["schedule"] == "linear").to_numpy()
    np.testing.assert_allclose(changed.conv_cooldown[linear], same.conv_cooldown[linear])


def test_leads_are_paired_over_blocks():
    rng = np.random.default_rng(3)
    blocks = list("abcde")
    rows = [
        {"method": m, "block": b, "n_runs": 7, "n_blocks": 5, "spearman": rng.random(),
         "regret": rng.random()}
        for m in ("opt-law", "other") for b in [*blocks, "all"]
    ]  # fmt: skip
    table = pd.DataFrame(rows).set_index(["method", "block"])
    lead = paper_tables.law_leads(table)
    law, other = (table.loc[m].loc[blocks] for m in ("opt-law", "other"))
    gap = law["spearman"] - other["spearman"]
    assert lead.loc["other", "spearman_lead"] == pytest.approx(gap.mean())
    assert lead.loc["other", "spearman_lead_se"] == pytest.approx(sem(gap))
    lower = (other["regret"] - law["regret"]).mean()
    assert lead.loc["other", "regret_lead"] == pytest.approx(lower)
    assert lead.loc["opt-law", "spearman_lead"] == 0
    one = table[table.index.get_level_values("block").isin(["a", "all"])]
    assert np.isnan(paper_tables.law_leads(one).loc["other", "spearman_lead_se"])


@pytest.mark.parametrize(
    ("value", "lead", "se", "says"),
    [(0.80, 0.1, 0.05, "best"), (0.95, -0.05, 0.06, "tied"), (0.95, -0.05, 0.04, "behind"),
     (0.90, 0.0, 0.1, "best"), (0.95, -0.05, np.nan, "behind, no standard error")],
)  # fmt: skip
def test_verdicts(value, lead, se, says):
    rows = []
    for method in ("opt-law", "other"):
        row = {"study": "pocket", "method": method}
        for metric in paper_page.MEASURES:
            sign = -1 if metric in ("relative_error", "regret") else 1
            row[metric] = sign * (0.9 if method == "opt-law" else value)
            row[f"{metric}_lead"] = 0.0 if method == "opt-law" else lead
            row[f"{metric}_lead_se"] = 0.0 if method == "opt-law" else se
        rows.append(row)
    found = paper_page.verdicts(pd.DataFrame(rows))
    assert found["metric"].tolist() == list(paper_page.MEASURES) and (found["says"] == says).all()
    assert (found["best"] == ("opt-law" if says == "best" else "other")).all()


@pytest.mark.slow
def test_missing_rivals_are_fitted_on_the_folds_of_the_evaluation(tmp_path, pocket, evaluated):
    fake = evaluated.rename(index={"simplified": "tissue", "chinchilla": "multi-power-law"})
    known = pd.concat([fake, evaluated.loc[["simplified", "chinchilla"]]])
    known.reset_index().to_csv(tmp_path / "pocket-5fold.csv", index=False)
    found = paper_tables.methods(STUDY, out=tmp_path, work=tmp_path / "work")
    assert set(found.index.unique("method")) >= {*baselines.available(), "opt-law"}
    expected = paper_variants.point_metrics(
        baselines.get("linear"), pocket, make_splits(pocket, k=5)
    )
    for name, value in expected.items():
        assert found.loc[("linear", "all"), name] == pytest.approx(value, rel=1e-9), name
    assert np.isnan(found.loc[("linear", "all"), "log_score_lead"])
    assert found.loc[("opt-law", "all"), "spearman"] == pytest.approx(
        evaluated.loc[("opt-law", "all"), "spearman"]
    )
    both = paper_tables.side_by_side(["pocket-5fold", "steplaw-5fold"], out=tmp_path)
    assert set(both["study"]) == {"pocket-5fold"}  # no folder of public tables


def test_an_evaluation_that_was_not_run_is_named(tmp_path, capsys):
    with pytest.raises(FileNotFoundError, match="--only pocket-5fold"):
        paper_tables.methods(STUDY, out=tmp_path)
    page = str(tmp_path / "page.md")
    assert paper_tables.main(["--only", "12", "--out", str(tmp_path), "--page", page]) == 1
    assert "divergence" in capsys.readouterr().err


def test_larger_runs_are_the_papers_in_proportion():
    found = paper_shapes.larger_runs(None)
    one = found[found["method"] == "simplified"]
    assert one["group"].value_counts().to_dict() == {
        "multi-phase": 8, "single-phase": 6, "loss-equivalent": 6,
    }  # fmt: skip
    raw = datasets.load("pocket-longer")
    paper = datasets.load("paper-table-2")
    multi = paper[paper["group"] != "single-phase"]
    points = ["warmup_steps", "decay_end_step", "cooldown_start_step"]
    ours = read_runs(raw)
    ours = ours[(ours["steps"] == 12_000) & (ours["n_params"] > 5e5)]
    assert set(map(tuple, ours[points].to_numpy())) == set(map(tuple, multi[points].to_numpy() / 2))
    mean = raw[(raw["name"] == "Polygon1") & (raw["peak_lr"] == 0.003)]["final_loss"].mean()
    row = one[(one["name"] == "Polygon1") & (one["peak_lr"] == 0.003)].iloc[0]
    assert row["actual_loss"] == pytest.approx(mean, rel=1e-12) and row["n_seeds"] == 2
    assert row["error_pct"] == pytest.approx(100 * abs(row["predicted_loss"] / mean - 1))
    table = paper_shapes.by_group(found).set_index("method")
    mine = one.groupby("group")["error_pct"].mean()
    assert table.loc["simplified", "multi-phase"] == pytest.approx(mine["multi-phase"])
    assert table.loc["simplified", "all"] == pytest.approx(one["error_pct"].mean())


def test_choice_of_family_against_loops():
    losses, choice = paper_shapes.families(None)
    choice = choice.set_index("method")
    assert (choice["n_sets"] == 15).all()
    assert choice.loc["constant", ["best_right", "order_right"]].tolist() == [
        pytest.approx(1 / 3),
        0.5,
    ]
    one = losses[losses["method"] == "simplified"]
    hits, regret = [], []
    for _, part in one.groupby(["n_params", "tokens", "peak_lr"]):
        by = part.set_index("schedule")
        picked = by["predicted_loss"].idxmin()
        hits.append(picked == by["actual_loss"].idxmin())
        regret.append(by.loc[picked, "actual_loss"] - by["actual_loss"].min())
    assert choice.loc["simplified", "best_right"] == pytest.approx(np.mean(hits))
    assert choice.loc["simplified", "regret"] == pytest.approx(np.mean(regret))


def test_one_command_prints_and_writes(tmp_path, capsys):
    shutil.copy(RESULTS / "divergence.csv", tmp_path)
    page = tmp_path / "docs" / "page.md"
    args = ["--only", "9", "12", "--out", str(tmp_path), "--page", str(page)]
    assert paper_tables.main(args) == 0
    shown = capsys.readouterr().out
    assert "| paper | R criterion (5-fold) | 0.96 | 0.88 | 0.92 | 0.94 |" in shown
    nine = tmp_path / "paper-table-9.csv"
    made = pd.read_csv(nine)
    assert set(made["study"]) == {"pocket"}
    # Rows of public tables that were made elsewhere stay, those of pocket are replaced.
    stored = pd.concat([made.assign(regret=9.0), made.assign(study="steplaw")])
    stored.to_csv(nine, index=False)
    assert paper_tables.main(args) == 0
    kept = pd.read_csv(nine)
    assert kept["study"].value_counts().to_dict() == {"pocket": 4, "steplaw": 4}
    assert (kept["regret"] < 1).all()
    text = page.read_text()
    assert (
        text.startswith("# The paper's tables") and "## Table 9" in text and "## Table 12" in text
    )
    assert "## Table 1:" not in text  # not made there


def test_decay_phase_changes_polygons_alone():
    found = paper_shapes.decay_phase(None)
    assert set(found["name"]) == {"Polygon1", "Polygon1v2", "Polygon2", "Polygon3"}
    assert (np.abs(found["default_error_pct"] - found["with_decay_error_pct"]) > 1e-3).all()
    order = paper_shapes.decay_phase_stages(None)
    assert len(order) == 6 and order["default_spearman"].between(-1, 1).all()


def test_the_page_in_docs_is_that_of_the_results():
    assert (ROOT / "docs" / "paper-tables.md").read_text() == paper_page.page(RESULTS)


def test_the_stored_table_1_follows_from_the_evaluation(evaluated):
    """Where the evaluation was run again, the tables are to be made again."""
    table = pd.read_csv(RESULTS / "paper-table-1.csv")
    mine = table[table["study"] == "pocket-5fold"].set_index("method")
    for method in ("opt-law", "gaussian-process"):
        for metric in ("spearman", "regret", "log_score"):
            stored = evaluated.loc[(method, "all"), metric]
            assert mine.loc[method, metric] == pytest.approx(stored, rel=1e-4)
