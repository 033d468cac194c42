"""Replay of ways to choose runs on the pocket grid."""

import json

import numpy as np
import pandas as pd
import pytest

from bayes_optlaws.evaluation.manifest import MANIFEST, DamagedResultWarning, FolderError
from studies import replay
from studies.replay_plot import plot_replay


def test_problem_has_the_largest_block_as_target(pocket):
    runs, target = replay.problem("pocket")
    assert len(runs) == (~pocket["diverged"]).sum()
    assert set(runs.loc[target, "n_params"]) == {runs["n_params"].max()}
    assert runs.loc[~target, "n_params"].max() < runs["n_params"].max()
    cost = replay.flops(runs)
    for place in range(1, replay.TARGETS):
        fewer, goal = replay.problem("pocket", place=place)
        own = replay.flops(fewer)
        assert own[~goal].max() <= own[goal].min() < cost.max()
        assert fewer.loc[goal, "block"].nunique() == 1 and len(fewer) < len(runs)


@pytest.mark.parametrize("objective", ["variance", "random"])
def test_replay_spends_its_budget_and_no_more(objective):
    runs, target = replay.problem("pocket")
    found = replay.replay(
        runs, target, objective=objective, share=0.01, draws=64, stages=2, repeat=1
    )
    assert 0.005 < found["spent"] <= 0.01
    loss = runs.loc[target, "final_loss"]
    assert 0 <= found["regret"] <= loss.max() - loss.min()
    assert found["r2"] <= 1 and 0 <= found["coverage"] <= 1
    assert found["n_runs"] >= 2 and found["ess"] >= 1


def test_study_summary_and_plot(tmp_path, monkeypatch, capsys):
    import matplotlib as mpl

    mpl.use("Agg")
    asked = []

    def fake(runs, target, *, objective, share, repeat, **options):
        asked.append((objective, share, repeat))
        return dict.fromkeys(replay.MEASURES, share * (1 + repeat))

    monkeypatch.setattr(replay, "replay", fake)
    options = {"objectives": ["regret", "random"], "shares": (0.01, 0.05)}
    options["targets"] = 1
    table = replay.study("pocket", tmp_path, repeats=3, law_repeats=1, **options)
    assert len(asked) == 2 * (3 + 1)
    assert table.loc[(0.01, "random"), "r2"] == pytest.approx(0.02)
    assert table.loc[(0.01, "random"), "r2_se"] == pytest.approx(0.01 / np.sqrt(3))
    assert np.isnan(table.loc[(0.05, "regret"), "r2_se"])
    assert table.loc[(0.05, "random"), "repeats"] == 3
    assert table.loc[(0.01, "random"), "near"] == pytest.approx(1 / 3)  # 0.01, 0.02, 0.03 nats
    assert (table["best"] == 0).all()
    replay.study("pocket", tmp_path, repeats=3, law_repeats=1, **options)
    assert len(asked) == 8, "what is done was done again"
    assert len(capsys.readouterr().out.splitlines()) == 8
    with pytest.raises(FolderError, match="options was"):
        replay.study("pocket", tmp_path, repeats=3, law_repeats=1, draws=7, **options)
    done = [p for p in (tmp_path / "pocket").iterdir() if p.name != MANIFEST]
    for path in done:
        assert json.loads(path.read_text())["share"] in (0.01, 0.05)
    done[0].write_text(done[0].read_text()[:20])
    with pytest.warns(DamagedResultWarning, match=done[0].name):
        replay.study("pocket", tmp_path, repeats=3, law_repeats=1, **options)
    assert len(asked) == 9
    extra = tmp_path / "pocket" / "regret_30_0.json"
    extra.write_text("{}")
    with pytest.warns(DamagedResultWarning, match=rf"{extra.name} is damaged .* left out"):
        again = replay.summary(tmp_path, "pocket")
    pd.testing.assert_frame_equal(again, table)
    replay.study("pocket", tmp_path / "both", repeats=1, law_repeats=1, **options | {"targets": 2})
    by_target = replay.summary(tmp_path / "both", "pocket", by_target=True)
    assert set(by_target.index.get_level_values("target")) == {"d96_2400", "d64_3600"}
    assert by_target["repeats"].eq(1).all()
    figure = plot_replay({"pocket": table})
    assert [ax.get_xscale() for ax in figure.axes] == ["log", "log"]
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["regret", "random"]
    mpl.pyplot.close(figure)


def test_replays_of_unreliable_importance_weights_are_left_out_and_counted(tmp_path, monkeypatch):
    """Pareto k of repeat 1 is above 0.7: its regret of 9 nats is in no mean."""

    def fake(runs, target, *, repeat, **options):
        return dict.fromkeys(replay.MEASURES, 0.02) | (
            {"regret": 9.0, "pareto_k": 0.71} if repeat == 1 else {"pareto_k": 0.69}
        )

    monkeypatch.setattr(replay, "replay", fake)
    options = {"objectives": ["random"], "shares": (0.01,), "targets": 1}
    row = replay.study("pocket", tmp_path, repeats=3, **options).loc[(0.01, "random")]
    assert row["regret"] == pytest.approx(0.02)
    assert row["repeats"] == 2 and row["left_out"] == 1
