"""A law that is updated is the law that was fitted to all runs."""

import numpy as np
import pytest

from bayes_optlaws.inference.density import HyperSpace
from bayes_optlaws.inference.fitting import joined
from bayes_optlaws.law import OptLaw
from bayes_optlaws.runs.faults import RunTableError

ONE = {
    "model_size": (-0.2,), "data": (-0.2,), "settings": (0.3,), "mixed": (0.3,), "escape": (0.3,),
    "cross": (0.3,),
}  # fmt: skip
OPTIONS = {"transfer": False, "exponents": ONE}
BY = {"method": "importance", "draws": 500, "progressbar": False}


@pytest.fixture(scope="module")
def halves(pocket):
    return pocket.iloc[::2], pocket.iloc[1::2]


def test_an_update_agrees_with_a_fit_of_all_runs(halves, pocket):
    old, new = halves
    law = OptLaw(**OPTIONS).fit(old, random_seed=1, **BY)
    assert law.update(new) is law
    assert law.get_params() == OPTIONS | {k: v for k, v in OptLaw().get_params().items()
                                          if k not in OPTIONS}  # fmt: skip
    assert len(law.runs) == len(pocket) and law.fitted.method == "importance"
    assert law.fitted.draws.n == 2000 and law.random_seed == 1
    whole = OptLaw(**OPTIONS).fit(law.runs, random_seed=2, **BY)
    a, b = law.fitted.draws, whole.fitted.draws
    pairs = [(a.beta, b.beta)] + [(np.log(v), np.log(b.hyper[k])) for k, v in a.hyper.items()
                                  if k != "noise_slope"]  # fmt: skip
    for x, y in pairs:
        error = np.sqrt((x.var(axis=0) + y.var(axis=0)) / 400)
        assert np.all(np.abs(x.mean(axis=0) - y.mean(axis=0)) < 4.5 * error + 1e-12)


def test_the_search_begins_at_the_old_posterior(halves, monkeypatch):
    old, new = halves
    law = OptLaw(divergence=False, **OPTIONS).fit(old, random_seed=1, **BY)
    seen = []
    mode = HyperSpace.mode
    monkeypatch.setattr(HyperSpace, "mode", lambda self, start=None: (
        seen.append(start), mode(self, start))[1])  # fmt: skip
    before = law.fitted.draws.hyper["noise_sd"]
    law.update(new)
    np.testing.assert_allclose(seen[0][0], np.log(before).mean())


def test_new_runs_need_no_names_and_may_be_one(halves):
    old, new = halves
    law = OptLaw(divergence=False, **OPTIONS).fit(old, random_seed=1, **BY)
    one = new.head(1).drop(columns="run_id")
    table = joined(law.fitted, one)
    assert len(table) == len(old) + 1 and table["run_id"].is_unique
    assert table["final_loss"].iloc[-1] == one["final_loss"].iloc[0]


def test_a_run_that_the_law_has_is_refused_and_the_law_stays(halves):
    old, _ = halves
    law = OptLaw(divergence=False, **OPTIONS).fit(old, random_seed=1, **BY)
    fitted = law.fitted
    with pytest.raises(RunTableError, match="must be unique"):
        law.update(old.head(2))
    assert law.fitted is fitted
