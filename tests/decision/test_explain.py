"""Explaining a preference: parts that add up, antisymmetry, and blocks by hand."""

import matplotlib
import numpy as np
import pytest
from laws import encoded, with_draws

from bayes_optlaws.decision.explain import PARTS, explain
from bayes_optlaws.inference.density import HyperSpace
from bayes_optlaws.inference.draws import recover
from bayes_optlaws.model.features import BLOCKS
from bayes_optlaws.runs.readers import read_candidates

matplotlib.use("agg")


@pytest.fixture(scope="module", params=[False, True], ids=["law alone", "transfer"])
def law(request, pocket):
    given = encoded(pocket, transfer=request.param)
    space = HyperSpace(given.encoding.data, given.priors)
    every = np.ones(given.encoding.data.tree.n_combinations, dtype=bool)
    x = np.tile(space.mode(), (300, 1))
    draws, *_ = recover(space, space.split(x), every, np.random.default_rng(0))
    return with_draws(given, draws)


@pytest.fixture(scope="module")
def pair(pocket):
    table = pocket[~pocket["diverged"]].iloc[[3, 40]].drop(columns=["final_loss", "diverged"])
    return read_candidates(table.set_index("run_id", drop=False).rename_axis(None))


def test_parts_add_up_to_the_difference_of_the_predictions(law, pair):
    found = explain(law, pair, allow_unconverged=True)
    assert tuple(found.draws.columns) == PARTS
    mean = law.predictor().mean(pair, np.random.default_rng(0))
    np.testing.assert_allclose(found.draws.sum(axis=1), mean[:, 0] - mean[:, 1], atol=1e-12)
    assert found.table.loc["total", "mean"] == pytest.approx(found.draws.sum(axis=1).mean())


def test_a_block_is_the_sum_of_its_features(law, pair):
    found = explain(law, pair, allow_unconverged=True)
    e = law.encoding
    x = e.standardizer(e.features.dictionary(pair))
    for name in BLOCKS:
        mine = [i for i, f in enumerate(e.features.features) if f.block == name]
        columns = np.flatnonzero(np.isin(e.features.column_feature, mine))
        by_hand = sum(law.draws.beta[:, j] * (x[0, j] - x[1, j]) for j in columns)
        np.testing.assert_allclose(found.draws[name], by_hand, atol=1e-12)
    if not e.transfer:
        np.testing.assert_allclose(found.draws["discrepancy"], 0.0, atol=1e-12)


def test_the_other_way_round_is_the_negative(law, pair):
    there = explain(law, pair, allow_unconverged=True)
    back = explain(law, pair.iloc[::-1], allow_unconverged=True)
    blocks = list(BLOCKS)
    np.testing.assert_allclose(there.draws[blocks], -back.draws[blocks], atol=1e-12)
    p = there.table.loc[blocks, "p_for_first"] + back.table.loc[blocks, "p_for_first"]
    np.testing.assert_allclose(p, 1.0)


def test_a_candidate_against_itself_has_no_difference(law, pair):
    found = explain(law, pair.iloc[[0, 0]], allow_unconverged=True)
    np.testing.assert_allclose(found.draws, 0.0, atol=1e-9)


def test_it_is_said_drawn_and_refused(law, pair):
    found = explain(law, pair, allow_unconverged=True)
    assert "is expected to end lower" in found.answer() and "<table" in found._repr_html_()
    (ax,) = found.plot().axes
    assert [t.get_text() for t in ax.get_yticklabels()] == [*PARTS, "total"]
    with pytest.raises(ValueError, match="3 candidates given"):
        explain(law, pair.iloc[[0, 1, 1]], allow_unconverged=True)
    with pytest.raises(RuntimeError, match="did not converge"):
        explain(law, pair)
