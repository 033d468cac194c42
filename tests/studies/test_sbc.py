"""The calibration study itself: it resumes, and it sees a posterior that is wrong."""

import json

import numpy as np
import pandas as pd
import pytest

from bayes_optlaws.evaluation.manifest import MANIFEST, DamagedResultWarning, FolderError
from bayes_optlaws.inference.reference import draw_prior
from bayes_optlaws.kernels.hyper import RESOLUTION
from bayes_optlaws.model.priors import Priors
from studies import sbc

FEW = {"scale": (-0.3, 0.3), "mixed": (0.15,), "escape": (0.3, 0.5), "cross": (0.2,)}
OPTIONS = {"transfer": False, "exponents": FEW}
QUICK = {"draws": 150, "tune": 150, "chains": 2}


def results(rank, covered, *, n_ranks=199, kind="coefficient"):
    """A table of results with given ranks and coverage."""
    n = len(rank)
    return pd.DataFrame(
        {
            "replication": np.arange(n), "kind": kind, "quantity": "x", "truth": 0.0, "mean": 0.0,
            "lower": np.where(covered, -1.0, 1.0), "upper": 2.0, "rank": rank,
            "n_ranks": n_ranks, "prob": 0.9,
        }
    )  # fmt: skip


def test_a_study_resumes_where_it_was(pocket, tmp_path):
    first = sbc.study(pocket, 2, tmp_path, law_options=OPTIONS, **QUICK)
    one = tmp_path / "replication-00000.json"
    stamp = one.stat().st_mtime_ns
    (tmp_path / "replication-00001.json").write_text('{"replication": 1, "quant')
    with pytest.warns(DamagedResultWarning, match=r"replication-00001\.json is damaged"):
        again = sbc.study(pocket, 3, tmp_path, law_options=OPTIONS, **QUICK)
    assert one.stat().st_mtime_ns == stamp
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        MANIFEST,
        *(f"replication-{i:05d}.json" for i in range(3)),
    ]
    extra = tmp_path / "replication-00009.json"
    extra.write_text("{}")
    with pytest.warns(DamagedResultWarning, match=rf"{extra.name} is damaged .* left out"):
        pd.testing.assert_frame_equal(sbc.read_results(tmp_path), again)
    extra.unlink()
    for options in (
        {"law_options": OPTIONS | {"features": "paper"}}, {"random_seed": 7},
        {"source": "posterior"},
        {"draws": QUICK["draws"] + 1},
    ):  # fmt: skip
        with pytest.raises(FolderError, match="results of other inputs"):
            sbc.study(pocket, 3, tmp_path, **({"law_options": OPTIONS} | QUICK | options))
    with pytest.raises(FolderError, match='runs was "table'):
        sbc.study(pocket.iloc[:-1], 3, tmp_path, law_options=OPTIONS, **QUICK)
    columns = ["replication", "quantity", "truth", "rank", "lower"]
    pd.testing.assert_frame_equal(
        first[columns], again.loc[again["replication"] < 2, columns].reset_index(drop=True)
    )
    assert set(again["kind"]) == {"scale", "coefficient", "exponent", "likelihood", "loss"}
    assert again["rank"].between(0, again["n_ranks"]).all()


def test_the_truth_is_simulated_with_the_stated_noise_and_mean(pocket, rng):
    law = sbc.prepare(pocket, **OPTIONS)
    truth = draw_prior(law.encoding.data, law.priors, rng)
    rows = law.encoding.rows()
    mean = sbc.expected(law, truth, rows)[0]
    np.testing.assert_allclose(mean, rows @ truth.beta[0], rtol=1e-10)
    noise = sbc.run_noise(law, truth)
    stated = np.hypot(truth.hyper["noise_sd"][0, 0], RESOLUTION)
    np.testing.assert_allclose(noise, stated, rtol=1e-10)
    assert noise.shape == (1, len(rows))


def test_targets_lie_beyond_the_table(pocket):
    targets = sbc.default_targets(pocket)
    assert (targets["n_params"] == 2 * pocket["n_params"].max()).all()
    assert (targets["tokens"] == 2 * pocket["tokens"].max()).all()
    assert targets["peak_lr"].between(pocket["peak_lr"].min(), pocket["peak_lr"].max()).all()
    assert targets["peak_lr"].is_unique


def test_real_and_simulated_runs_add_up_for_a_truth_from_the_posterior(pocket):
    law = sbc.prepare(pocket, **OPTIONS, priors=Priors(noise_df=np.inf))
    y = np.zeros(len(law.encoding.finished))
    both = sbc.with_response(law, y, add=True).data.statistics
    assert both.n[0] == 2 * len(y)
    np.testing.assert_allclose(both.xy, law.encoding.data.statistics.xy, atol=1e-12)
    np.testing.assert_allclose(both.gram, 2 * law.encoding.data.statistics.gram)


def test_calibrated_ranks_pass_and_wrong_ones_do_not():
    rng = np.random.default_rng(7)
    n = 400
    ranks = {
        "right": rng.integers(0, 200, n),
        "too narrow": np.clip(100 + 1.8 * (rng.integers(0, 200, n) - 100), 0, 199).astype(int),
        "shifted": np.minimum(rng.integers(0, 200, n) + 30, 199),
    }
    for name, rank in ranks.items():
        row = sbc.calibration(results(rank, rng.random(n) < 0.9)).iloc[0]
        assert row["inside_band"] == (name == "right"), name
        assert abs(row["coverage"] - 0.9) < row["three_se"]
    shifted = sbc.calibration(results(ranks["shifted"], np.ones(n, bool))).iloc[0]
    assert shifted["rank_z"] > 5 and shifted["coverage"] == 1.0


def test_discrete_exponents_have_no_coverage():
    row = sbc.calibration(results(np.arange(200), np.ones(200, bool), kind="exponent")).iloc[0]
    assert np.isnan(row["coverage"]) and row["inside_band"]


def test_decisions_compare_what_is_stated_with_what_happens():
    table = results(np.arange(4), np.ones(4, bool)).assign(
        p_best=[0.5, 0.5, 1.0, 1.0], chosen_is_best=[True, False, True, True], regret=0.1
    )
    found = sbc.decisions(table)
    assert found["stated"] == found["observed"] == 0.75
    assert found["three_se"] == pytest.approx(3 * np.sqrt(0.5) / 4)


def test_wrong_options_are_refused(pocket, tmp_path):
    law = sbc.prepare(pocket, **OPTIONS)
    with pytest.raises(ValueError, match="source must be one of"):
        sbc.replicate(law, None, 0, source="data")
    with pytest.raises(ValueError, match="belong together"):
        sbc.replicate(law, None, 0, source="posterior")
    with pytest.raises(FileNotFoundError, match="run a study there first"):
        sbc.read_results(tmp_path)


@pytest.mark.slow
def test_a_prior_that_is_not_the_truth_is_found_out(pocket, tmp_path):
    """Simulate with half the stated noise: the posterior's noise ranks must show it."""
    law = sbc.prepare(pocket, **OPTIONS)
    targets = sbc.default_targets(pocket)
    original = sbc.run_noise
    ranks = []
    try:
        sbc.run_noise = lambda law, draws: original(law, draws) / (2.0 if draws.n == 1 else 1.0)
        for i in range(15):
            row = sbc.replicate(law, targets, i, **QUICK)
            ranks.append(row["quantities"]["scale:noise_sd"][4])
    finally:
        sbc.run_noise = original
    assert np.median(ranks) > 190


def test_result_files_are_json_of_plain_numbers(pocket, tmp_path):
    sbc.study(pocket, 1, tmp_path, law_options=OPTIONS, **QUICK)
    row = json.loads((tmp_path / "replication-00000.json").read_text())
    assert row["prob"] == 0.9 and len(row["quantities"]["coefficient:N"]) == 6
