"""Evaluation: splits without leakage, refits that resume, pooled tables, report."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy.stats import t as student

import bayes_optlaws as bo
from bayes_optlaws import baselines, datasets
from bayes_optlaws.evaluation import metrics, protocols, splits
from bayes_optlaws.model.tails import Tails
from bayes_optlaws.runs.readers import read_runs
from studies import held_out as report
from studies import scenarios
from studies.__main__ import main

TIMES = ["seconds", "cpu_seconds"]


class Spy:
    """Baseline that predicts the log-mean loss and records which runs it was given."""

    name = "spy"
    n_parameters = 1
    seen: list[tuple] = []

    def __init__(self, *, shift: float = 0.0) -> None:
        self.shift = shift

    def fit(self, runs):
        self.fitted = set(runs["run_id"])
        loss = np.log(runs.loc[~runs["diverged"], "final_loss"])
        self.mean, self.sd = loss.mean() + self.shift, loss.std()
        return self

    def predict(self, runs):
        Spy.seen.append((self.fitted, set(runs["run_id"]), tuple(runs.columns)))
        return np.full(len(runs), np.exp(self.mean))

    def predict_draws(self, runs, *, n=200, random_seed=None):
        rng = np.random.default_rng(random_seed)
        return np.exp(self.mean + self.sd * rng.normal(size=(n, len(runs))))

    @property
    def parameters(self):
        return pd.Series({"mean": self.mean})


class Refusing(Spy):
    """Baseline that cannot be fitted."""

    name = "refusing"

    def fit(self, runs):
        raise ValueError("too few runs")


@pytest.fixture(autouse=True)
def forget():
    Spy.seen = []


# Splits --------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", splits.PROTOCOLS[:4])
def test_no_run_is_fitted_and_tested(pocket, protocol):
    found = splits.make_splits(pocket, protocol)
    alive = np.flatnonzero(~pocket["diverged"])
    for split in found:
        assert not set(split.fit) & set(split.test)
        assert set(split.test) <= set(alive)
    if protocol in ("kfold-within-block", "leave-block-out"):
        tested = np.concatenate([s.test for s in found])
        assert sorted(tested) == list(alive)  # each convergent run once


def test_folds_take_an_equal_share_of_every_block_and_depend_on_the_seed_only(pocket):
    found = splits.make_splits(pocket, k=5, random_seed=3)
    label = splits.block_labels(pocket)
    for split in found:
        fitted = pd.Series(label[split.fit]).value_counts()
        total = pd.Series(label).value_counts()
        assert ((total - fitted) - total / 5).abs().max() < 1
    again = splits.make_splits(pocket, k=5, random_seed=3)
    other = splits.make_splits(pocket, k=5, random_seed=4)
    assert all(np.array_equal(a.test, b.test) for a, b in zip(found, again, strict=True))
    assert not all(np.array_equal(a.test, b.test) for a, b in zip(found, other, strict=True))


def test_largest_size_and_largest_budget(pocket):
    (n,) = splits.make_splits(pocket, "hold-out-largest-n")
    assert set(pocket["n_params"].iloc[n.test]) == {246240.0}
    assert pocket["n_params"].iloc[n.fit].max() == 115008.0
    (d,) = splits.make_splits(pocket, "hold-out-largest-d")
    assert set(pocket["tokens"].iloc[d.test]) == {3686400.0}
    assert pocket["tokens"].iloc[d.fit].max() == 2457600.0


def test_a_schedule_family_is_held_out_whole(pocket):
    runs = pocket.copy()
    runs.loc[runs.index[::2], "schedule"] = "cosine"
    found = splits.make_splits(runs, "hold-out-schedule")
    assert [s.name for s in found] == ["cosine", "linear"]
    for split in found:
        assert set(runs["schedule"].iloc[split.test]) == {split.name}
        assert split.name not in set(runs["schedule"].iloc[split.fit])


def test_masks_and_pairs_of_masks(pocket):
    big = pocket["n_params"] > 1e5
    (plain,) = splits.make_splits(pocket, test=big)
    assert plain.fit.size == (~big).sum()
    assert plain.test.size == (big & ~pocket["diverged"]).sum()
    small = (pocket["n_params"] < 2e4).to_numpy()
    (pair,) = splits.make_splits(pocket, test={"far": (small, big.to_numpy())})
    assert pair.name == "far"
    assert pair.fit.size == small.sum()


def test_blocks_join_budgets_that_differ_by_rounding():
    runs = pd.DataFrame({"n_params": [1e8, 1e8, 1e8, 2e8], "tokens": [1e9, 1.003e9, 2e9, 1e9]})
    assert pd.factorize(splits.block_labels(runs))[0].tolist() == [0, 0, 1, 2]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"protocol": "leave-one-out"}, "choose from"),
        ({"protocol": "hold-out-schedule"}, "at least two schedules"),
        ({"k": 1}, "at least 2 folds"),
        ({"test": np.zeros(260, dtype=bool)}, "no finished run would be tested"),
        ({"test": np.ones(260, dtype=bool)}, "no finished run would be fitted"),
        ({"test": np.ones(3, dtype=bool)}, "boolean of shape"),
        ({"test": np.arange(260)}, "boolean of shape"),
        ({"test": {"x": (np.ones(260, dtype=bool),) * 2}}, "fitted and tested"),
    ],
)
def test_splits_that_make_no_sense_are_refused(pocket, options, words):
    with pytest.raises(ValueError, match=words):
        splits.make_splits(pocket, **options)


# Evaluation ----------------------------------------------------------------------------------


def test_laws_are_fitted_without_the_tested_runs_and_never_see_their_losses(pocket):
    protocols.evaluate(Spy(), pocket, k=3, n_boot=5)
    assert len(Spy.seen) == 3
    for fitted, tested, columns in Spy.seen:
        assert fitted and tested and not fitted & tested
        assert "final_loss" not in columns and "diverged" not in columns


def test_pooled_row_is_the_summary_of_all_splits(pocket):
    (found,) = protocols.held_out(Spy(), pocket, "leave-block-out")
    table = protocols.tabulate([found], n_boot=20)
    order = np.argsort(found.rows)
    alive = np.flatnonzero(~pocket["diverged"])
    assert found.rows[order].tolist() == alive.tolist()
    assert np.array_equal(found.observed, pocket["final_loss"].to_numpy()[found.rows])
    pooled = table.loc[("spy", "all")]
    assert pooled["relative_error"] == pytest.approx(
        metrics.relative_error(found.observed, found.predicted)
    )
    assert pooled["coverage_95"] == pytest.approx(metrics.coverage(found.observed, found.draws))
    blocks = table.drop(index=("spy", "all"))
    assert len(blocks) == 7
    assert np.average(blocks["log_score"], weights=blocks["n_runs"]) == pytest.approx(
        pooled["log_score"]
    )
    assert pooled["log_score_se"] > 0
    assert blocks["log_score_se"].isna().all()
    assert table.attrs["folds"][0]["n_test"] == 35


def test_lead_in_log_score_is_paired(pocket):
    table = protocols.evaluate(
        Spy(), pocket, "hold-out-largest-n", baselines={"shifted": Spy(shift=0.3)}, n_boot=20
    )
    pooled = table.xs("all", level="block")
    lead = pooled["log_score"]["spy"] - pooled["log_score"]["shifted"]
    assert pooled["log_score_lead"]["shifted"] == pytest.approx(lead)
    assert pooled["log_score_lead"]["spy"] == 0.0


def test_standard_errors_resample_cells_and_one_cell_has_none(pocket):
    """Runs of a cell share its level error; folds cut a cell into contests, which are not cells."""
    (found,) = protocols.held_out(Spy(), pocket, k=5)
    assert len(set(found.blocks)) == 7 and len(set(found.contests)) == 35
    cell = pd.Series(np.abs(found.predicted / found.observed - 1)).groupby(found.blocks)
    sums, sizes = 100 * cell.sum().to_numpy(), cell.size().to_numpy()
    drawn = np.random.default_rng(1).integers(7, size=(20_000, 7))
    exact = np.std(sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1))
    se = found.standard_errors(n_boot=1000)["relative_error"]
    assert se == pytest.approx(exact, rel=5 / np.sqrt(2 * 1000))
    (one,) = protocols.held_out(Spy(), pocket, "hold-out-largest-n")
    assert one.standard_errors(n_boot=5).isna().all()


def test_a_broken_run_goes_on_where_it_stopped(pocket, tmp_path):
    options = {"k": 3, "folder": tmp_path, "n_boot": 5, "baselines": {"shifted": Spy(shift=0.1)}}
    first = protocols.evaluate(Spy(), pocket, **options)
    files = sorted(tmp_path.iterdir())
    assert len(files) == 6
    assert len(Spy.seen) == 6
    files[1].unlink()
    again = protocols.evaluate(Spy(), pocket, **options)
    assert len(Spy.seen) == 7
    pd.testing.assert_frame_equal(
        first.drop(columns=TIMES), again.drop(columns=TIMES), check_exact=True
    )
    protocols.evaluate(Spy(), pocket, **options | {"random_seed": 1})
    assert len(Spy.seen) == 13  # another seed is another result
    changed = pocket.copy()
    changed.loc[changed.index[0], "final_loss"] += 0.01
    protocols.evaluate(Spy(), changed, **options)
    assert len(Spy.seen) == 19  # and so are other runs


@pytest.mark.parametrize("name", baselines.available())
def test_a_result_is_found_again_by_options_and_not_by_an_earlier_fit(pocket, name):
    (split,) = splits.make_splits(pocket, "hold-out-largest-n")

    def file_name(law):
        return protocols._file_name(name, law, pocket, split, {}, 0)

    law = baselines.get(name)
    before = file_name(law)
    assert before == file_name(baselines.get(name))
    if name != "generalized":  # slow
        assert before == file_name(law.fit(pocket))
    other = next(k for k, v in vars(law).items() if not k.startswith("_") and k != "n_parameters")
    setattr(law, other, "another value")
    assert before != file_name(law)


def test_two_processes_give_the_same_table(pocket, tmp_path):
    law = baselines.Chinchilla(n_starts=2)
    options = {"k": 2, "baselines": {"mean": baselines.ConstantBlockMean()}, "n_boot": 5}
    one = protocols.evaluate(law, pocket, **options)
    two = protocols.evaluate(law, pocket, n_jobs=2, **options)
    pd.testing.assert_frame_equal(
        one.drop(columns=TIMES), two.drop(columns=TIMES), check_exact=True
    )


def test_a_baseline_that_cannot_be_fitted_is_a_row_without_numbers(pocket):
    table = protocols.evaluate(
        Spy(), pocket, "hold-out-largest-n", baselines={"refusing": Refusing()}, n_boot=5
    )
    assert table.loc[("refusing", "all"), "error"] == "too few runs"
    assert np.isnan(table.loc[("refusing", "all"), "log_score"])
    with pytest.raises(ValueError, match="too few runs"):
        protocols.evaluate(Refusing(), pocket, "hold-out-largest-n")


def test_methods_need_names_that_differ(pocket):
    with pytest.raises(ValueError, match="two methods"):
        protocols.evaluate(Spy(), pocket, baselines={"spy": Spy()})
    with pytest.raises(TypeError, match="OptLaw or a baseline"):
        protocols.evaluate("chinchilla", pocket)


def test_the_fit_of_the_user_is_left_alone_and_the_law_beats_the_mean(small_law, pocket):
    before = small_law.posterior
    table = bo.evaluate(
        small_law, pocket, "hold-out-largest-d", baselines=["constant"], draws=300, tune=200,
        n_boot=20,
    )  # fmt: skip
    assert small_law.posterior is before
    assert len(small_law.runs) == len(pocket)
    pooled = table.xs("all", level="block")
    assert pooled["converged"].dtype == bool
    assert pooled["spearman"]["opt-law"] > 0.5  # the mean has 0
    assert pooled["regret"]["opt-law"] < pooled["regret"]["constant"]
    (fold,) = (f for f in table.attrs["folds"] if f["method"] == "opt-law")
    assert fold["pareto_k"] <= 0.7 and fold["effective_draws"] >= 400


@pytest.mark.parametrize("df", [np.inf, 5.0])
def test_log_score_of_the_law_is_that_of_its_mixture(df, small_law, pocket):
    tails = Tails(df, 10.0)
    fitted = replace(small_law.fitted, tails=tails)
    law = SimpleNamespace(
        predictor=fitted.predictor(), fitted=fitted, diagnostics=fitted.diagnostics
    )
    test = pocket[~pocket["diverged"]].iloc[:6]
    result = protocols._predict_law(law, test.drop(columns="final_loss"), seed=5)
    log_loss = np.log(test["final_loss"].to_numpy())
    z = (log_loss - result["cond_mean"]) / result["cond_sd"]
    scale = np.sqrt((df - 2) / df) if np.isfinite(df) else 1.0
    density = student.pdf(z, df, scale=scale) / result["cond_sd"]
    found = metrics.log_score(
        test["final_loss"], cond_mean=result["cond_mean"], cond_sd=result["cond_sd"],
        cond_df=result["cond_df"],
    )  # fmt: skip
    np.testing.assert_allclose(found, np.log(density.mean(axis=0)), rtol=1e-5)
    spread = np.log(result["draws"]).std(axis=0)
    expected = np.sqrt(
        result["cond_mean"].var(axis=0) + (result["cond_sd"].astype(float) ** 2).mean(axis=0)
    )
    # the sd of a sample has a variance of (kurtosis - 1) / 4 n
    kurtosis = 3 + (6 / (df - 4) if np.isfinite(df) else 0.0)
    error = np.sqrt((kurtosis - 1) / (4 * len(result["draws"])))
    np.testing.assert_allclose(spread, expected, rtol=5 * error)


# Report --------------------------------------------------------------------------------------


def test_calibration_curves_of_a_calibrated_prediction(rng):
    n = 2000
    centre = rng.normal(size=n)
    observed = np.exp(centre + 0.1 * rng.normal(size=n))
    draws = np.exp(centre + 0.1 * rng.normal(size=(400, n)))
    blocks = np.repeat([f"b{i}" for i in range(100)], 20)
    found = protocols.HeldOut(
        report.LAW,
        np.arange(n),
        observed,
        np.exp(centre),
        draws,
        None,
        None,
        None,
        blocks,
        blocks,
        [],
    )
    curves = report.calibration_curves([found])
    inside = curves[curves["curve"] == "coverage"]
    se = np.sqrt(inside["x"] * (1 - inside["x"]) / n)
    assert ((inside["y"] - inside["x"]).abs() / se).max() < 4.5
    density = curves[curves["curve"] == "pit"]
    assert density["y"].mean() == pytest.approx(1.0)
    pairs = curves[curves["curve"] == "pairs"]
    assert pairs["n"].sum() == 100 * 190
    assert (pairs["y"] - pairs["x"]).abs().max() < 0.05


@pytest.mark.public
def test_the_far_studies_test_only_what_lies_beyond_the_fitted_runs(public_folder):
    for study in scenarios.FAR:
        runs = study.runs(public_folder)
        (split,) = splits.make_splits(runs, **study.split(runs))
        fit, test = runs.iloc[split.fit], runs.iloc[split.test]
        assert min(len(fit), len(test)) >= 3 and not fit["diverged"].any()
        axis = {
            "n": runs["n_params"],
            "m": runs["tokens"] / runs["n_params"],
            "c": runs["n_params"] * runs["tokens"],
        }[study.name.rsplit("-", 1)[1]]
        assert axis.loc[test.index].min() > 0.9 * axis.loc[fit.index].max(), study.name


@pytest.mark.public
@pytest.mark.filterwarnings("ignore:.*equal to another row")
def test_the_studies_fit_and_test_what_their_titles_say(public_folder):
    found = {}
    for study in report.STUDIES:
        runs = read_runs(datasets.load(study.table, folder=public_folder), group=study.group)
        found[study.name] = (
            runs,
            splits.make_splits(runs, **{"protocol": "kfold-within-block", **study.split(runs)}),
        )
    runs, (split,) = found["steplaw-n"]
    assert runs["n_params"].iloc[split.fit].max() < 0.44e9
    assert sorted(set(runs["n_params"].iloc[split.test].round(-7))) == [0.54e9, 1.07e9]
    assert len(set(splits.block_labels(runs))) == 17
    runs, (split,) = found["steplaw-d"]
    assert runs["tokens_nominal"].iloc[split.fit].max() < 30e9
    assert runs["tokens_nominal"].iloc[split.test].min() >= 30e9
    runs, (split,) = found["marin-n"]
    assert set(runs["n_params"].iloc[split.test]) == {1207959552.0}
    runs, families = found["schaipp-family"]
    assert len(families) == 5
    for split in families:
        kind = runs["schedule"].to_numpy(object)
        assert len(set(kind[split.test])) == 1
        assert not set(kind[split.test]) & set(kind[split.fit])


def test_tables_targets_readme_and_plots_from_result_files(pocket, tmp_path, capsys, monkeypatch):
    """One study by way of the command, with quick stand-ins for the laws."""
    monkeypatch.setattr(
        report,
        "methods",
        lambda runs, names: {
            "spy": Spy(), report.RIVAL: Spy(shift=1.0), "refusing": Refusing()
        },
    )  # fmt: skip
    monkeypatch.setattr(report, "LAW", "spy")
    monkeypatch.setattr(report, "CURVES", ("spy", report.RIVAL))
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{report.START}\nold\n{report.END}\nafter\n")
    page = tmp_path / "docs" / "page.png"
    options = ["--out", str(tmp_path / "o"), "--work", str(tmp_path / "w"), "--page", str(page)]
    names = ["pocket-n", "pocket-5fold", "steplaw-n"]
    assert main([*options, "--readme", str(readme), "--only", *names]) == 0
    assert "steplaw-n: left out" in capsys.readouterr().out
    assert page.stat().st_size > 10_000
    text = readme.read_text()
    assert text.startswith("before\n") and text.endswith("after\n") and "\nold\n" not in text
    assert "Pocket: largest N | **spy** | 28 |" in text
    assert "Not measured yet: Step Law" in text
    assert "refusing" not in text
    judged = pd.read_csv(tmp_path / "o" / "targets.csv").set_index(["study", "measure"])
    table = report.read_tables(tmp_path / "o")["pocket-n"]
    value = table.loc[("spy", "all"), "coverage_95"]
    assert judged.loc[("pocket-n", "coverage_95"), "value"] == pytest.approx(value)
    assert judged.loc[("pocket-n", "coverage_95"), "holds"] == (0.90 <= value <= 0.99)
    assert judged.loc[("pocket-5fold", "log_score"), "holds"]  # the rival is off by a factor e


def test_a_single_marker_becomes_a_pair(tmp_path):
    path = tmp_path / "README.md"
    path.write_text(f"a\n{report.START}\nb\n")
    assert report.write_readme(path, "first") and report.write_readme(path, "second")
    assert path.read_text() == f"a\n{report.START}\nsecond\n{report.END}\nb\n"


def test_readme_without_markers_is_left_alone(tmp_path):
    path = tmp_path / "README.md"
    path.write_text("no table here\n")
    assert not report.write_readme(path, "x")
    assert path.read_text() == "no table here\n"
