"""Runs that the others contradict are named, with the likely mistake."""

import json

import numpy as np
import pandas as pd
import pytest

from bayes_optlaws.cli.main import main
from bayes_optlaws.datasets import load
from bayes_optlaws.inference.gate import ConvergenceWarning
from bayes_optlaws.inference.loo import LooMoments
from bayes_optlaws.inference.odd_runs import OddRunWarning, likely_mistakes, odd_runs, odd_sentence
from bayes_optlaws.law import OptLaw

QUICK = {"draws": 200, "tune": 200, "chains": 2, "random_seed": 1, "progressbar": False}
ODD = "d96_2400-022"
"""Run of the pocket grid beside the edge of divergence, well above its neighbours."""


def test_the_odd_run_of_the_pocket_grid_is_named_wherever_it_should(small_law):
    table = small_law.odd_runs()
    assert table.index[0] == ODD and table["z"].iloc[0] > 4 and table["off_percent"].iloc[0] > 10
    assert table["likely"].iloc[0].startswith("ended early or diverged without being marked")
    assert small_law.summary().attrs["odd_runs"][0]["run_id"] == ODD
    assert ODD in odd_sentence(table) and "z = " in odd_sentence(table)


@pytest.mark.parametrize(("factor", "words"), [(1 / np.log(2), "bits"), (1.15, "ended early")])
def test_a_spoilt_run_is_named_after_the_fit(pocket, factor, words):
    spoilt = pocket.copy()
    row = spoilt.index[~spoilt["diverged"] & (spoilt["peak_lr"] < 0.02)][30]
    spoilt.loc[row, "final_loss"] *= factor
    law = OptLaw(transfer=False, divergence=False)
    with pytest.warns(OddRunWarning, match=str(spoilt.loc[row, "run_id"])):
        law.fit(spoilt, **QUICK)
    assert words in law.odd_runs().loc[spoilt.loc[row, "run_id"], "likely"]


def test_a_table_without_a_fault_is_rarely_accused(small_law, monkeypatch):
    """With normal residuals of the stated sd a run is named in about 1 table of 100."""
    rng = np.random.default_rng(0)
    n = len(small_law.fitted.encoding.finished)
    from bayes_optlaws.inference import odd_runs as module

    accused = 0
    for _ in range(300):
        each = rng.standard_normal((1, n)) * 0.01, np.zeros((1, n)), np.full((1, n), 0.01)
        moments = LooMoments(*each)
        monkeypatch.setattr(module, "loo_moments", lambda law, max_draws, m=moments: m)
        accused += len(odd_runs(small_law.fitted)) > 0
    # 3 expected; the median of |z| has an error of its own, which adds some
    assert accused <= 12


def test_perplexity_is_recognised():
    assert likely_mistakes(np.log(11.0 / 2.4)).startswith("perplexity")
    assert likely_mistakes(-0.2).startswith("longer than stated")


def test_a_fit_that_fails_the_gate_warns_and_names_the_quantities(pocket):
    law = OptLaw(transfer=False, divergence=False)
    options = {"draws": 100, "tune": 50, "chains": 2, "random_seed": 1, "progressbar": False}
    with pytest.warns(ConvergenceWarning, match=r"did not converge .*quantities: \w+"):
        law.fit(pocket, **options)
    assert law.fitted.failing_quantities


def test_the_gate_has_the_pareto_k_of_the_screening_weights(small_law):
    from bayes_optlaws.inference import nuts

    assert small_law.diagnostics["screening_k"] <= nuts.MAX_PARETO_K
    failed = nuts.failures(small_law.diagnostics | {"screening_k": 0.9})
    assert failed == ["Pareto k of the screening weights 0.90 > 0.7"]


def test_check_names_the_odd_run_when_it_fits(tmp_path, capsys):
    path = tmp_path / "runs.csv"
    load("pocket").to_csv(path, index=False)
    call = ["check", str(path), "--fit", "--no-transfer", "--draws", "200", "--tune", "200",
            "--seed", "1"]  # fmt: skip
    assert main([*call, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert ODD in pd.DataFrame(found["odd_runs"])["run_id"].to_list()
