"""One ranking, shown in several places: words, table, JSON, command line and report agree."""

import json
import re
from html import unescape

import numpy as np
import pandas as pd
import pytest

from bayes_optlaws.cli import demo
from bayes_optlaws.cli.main import main
from bayes_optlaws.inference.fitted import FittedLaw
from bayes_optlaws.law import OptLaw

PLANS = {
    "a clear choice": demo.candidates(),
    "all the same": demo.candidates().iloc[[0] * 4].assign(run_id=list("abcd")),
    "risky ones": demo.candidates().assign(peak_lr=np.geomspace(0.05, 0.4, 9), warmup_steps=64),
}


@pytest.fixture(scope="module")
def laws(small_law, law_file, tmp_path_factory):
    """The shared law and the same without its divergence part, each with its file."""
    f = small_law.fitted
    options = f.options | {"divergence": False}
    silent = FittedLaw(f.encoding, f.priors, f.sample, f.random_seed, None, options=options)
    law = OptLaw.from_fitted(silent)
    file = law.save(tmp_path_factory.mktemp("law") / "silent.nc")
    return {True: (small_law, law_file), False: (law, file)}


@pytest.mark.parametrize(
    ("name", "kind", "modelled"),
    [*((name, kind, True) for name in PLANS for kind in ("mean", "new_run")),
     ("a clear choice", "mean", False)],
)  # fmt: skip
def test_nothing_said_of_a_ranking_contradicts_another(
    laws, tmp_path, capsys, name, kind, modelled
):
    law, law_file = laws[modelled]
    plan = PLANS[name].set_index("run_id", drop=False).rename_axis(None)
    path = tmp_path / "plan.csv"
    plan.to_csv(path, index=False)
    ranking = law.rank(plan, kind=kind)
    table = ranking.table
    call = ["rank", str(law_file), str(path), "--kind", kind]
    assert main([*call, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert main(call) == 0
    printed = " ".join(capsys.readouterr().out.split())
    page = law.report(plan, path=tmp_path / "r.html", kind=kind, n_runs=0).read_text()
    page = " ".join(re.sub(r"<[^>]+>", " ", unescape(page)).split())

    # the same words in all of them
    assert found["answer"] == ranking.answer() and found["headline"] == ranking.headline
    for sentence in [*ranking.sentences(notes=False), *ranking.notes]:
        assert sentence in found["answer"]
        assert sentence in printed and sentence in page
    # the same numbers
    rows = pd.DataFrame(found["table"]).set_index("candidate")
    assert list(rows.index) == list(table.index)
    for column in table:
        np.testing.assert_allclose(rows[column].astype(float), table[column], rtol=1e-9)
    assert found["better_setting"]["gain"] == pytest.approx(ranking.better.gain)
    assert found["notes"] == list(ranking.notes) and found["kind"] == ranking.kind == kind
    # and the words say what the table says
    said, first = ranking.answer(), table.iloc[0]
    group = table["tie_group"]
    assert ("Choose" in said) == (group.max() > 1)
    assert ("tie:" in ranking.headline) == bool((table["p_best_or_tied"] >= 0.9).all())
    for label in table.index[group > 1]:
        rivals = re.search(r"for all these runs show: ([^.]*)\.", said)
        assert rivals is None or label not in rivals.group(1)
    assert found["divergence_modelled"] == ranking.divergence_modelled == modelled
    stated = re.search(r"diverges with probability (?:under |over )?(\d+) %", said)
    if modelled:
        assert abs(int(stated.group(1)) / 100 - first["p_diverge"]) <= 0.0101
        places = table["rank_without_risk"]
        assert ("Without the risk" in said) == (places.idxmin() != table.index[0])
    else:
        assert stated is None and all(row["p_diverge"] is None for row in found["table"])
        for text in (said, printed, page):
            assert "risk of divergence is not modelled" in text.lower()
    clear = ranking.flips[ranking.flips["verdict"] == "clear"]
    assert (group[clear["first"]].to_numpy() < group[clear["second"]].to_numpy()).all()
