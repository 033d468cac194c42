"""What a user sees of a ranking: answer, text, HTML and plots."""

import dataclasses
import re

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from bayes_optlaws.decision.ranking import Ranking
from bayes_optlaws.text import html

INF = np.inf


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def test_answer_names_choice_ties_flips_and_risk():
    rng = np.random.default_rng(5)
    mean = np.array([2.400, 2.401, 2.420, 2.395])
    draws = mean + rng.normal(0, 0.004, size=(1000, 4))
    draws[:, 3][rng.random(1000) < 0.2] = INF
    r = Ranking.from_draws(draws, labels=["cosine", "wsd", "constant", "hot"])
    answer = r.answer()
    assert answer.startswith("Choose cosine. A run of it ends lowest of 4 with probability ")
    assert "(90 % interval 2.39" in answer
    assert "May be as good, to within 0.001 nats, for all these runs show: wsd, hot." in answer
    assert "Neighbours whose order is a coin flip: cosine / wsd" in answer
    assert f"when they differ by {r.resolution:.2g} nats of loss" in answer
    assert "; it diverges with probability under 1 %." in answer
    assert re.search(
        r"hot is lower with probability 8\d % if .* diverges with probability \d\d %", answer
    )
    assert "± " not in answer
    assert (
        "Its expected loss is the lowest"
        in Ranking.from_draws(draws, kind="mean", labels=list("abcd")).answer()
    )


def test_answer_says_when_it_rests_on_few_draws_or_a_doomed_run():
    r = Ranking.from_draws(np.array([[2.0, 3.0]] * 25))
    assert "With only 25 draws a probability is known to about ± 20 %." in r.answer()
    assert "Every other candidate is worse by more than 0.001 nats" in r.answer()
    doomed = Ranking.from_draws(np.array([[2.0, INF], [INF, INF], [INF, INF], [INF, INF]]))
    assert "75 %, so it is more likely to be lost than to finish." in doomed.answer()


def test_answer_keeps_silent_about_a_rival_that_is_risky_and_no_better():
    draws = np.array([[2.0, 3.0], [2.0, 3.0], [2.0, INF]])
    assert "both finish" not in Ranking.from_draws(draws).answer()


def test_result_is_frozen_and_gives_a_copy():
    r = Ranking.from_draws(np.array([[2.0, 3.0]]))
    with pytest.raises(dataclasses.FrozenInstanceError):
        r.tie = 1.0
    frame = r.to_dataframe()
    frame.loc[0, "p_best"] = 0.0
    assert r.table.loc[0, "p_best"] == 1.0


def test_repr_has_answer_and_the_head_of_the_table(rng):
    r = Ranking.from_draws(rng.normal(size=(20, 12)))
    text = repr(r)
    assert text.startswith(
        "Ranking of 12 candidates by a single new run, 20 draws\nThese runs cannot "
    )
    assert text.endswith("... and 2 more rows")
    assert "expected_regret" in text


def test_html_has_answer_table_and_flips_and_escapes_labels():
    labels = ["<script>alert(1)</script>", "a & b"]
    r = Ranking.from_draws(np.array([[2.0, 2.5], [2.0, INF]]), labels=labels)
    page = r._repr_html_()
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page and "a &amp; b" in page
    assert page.index("Choose ") < page.index("expected_<wbr/>regret") < page.index("verdict")
    assert page.count("<table") == page.count("</table>") == 2
    assert ">2.0000</td>" in page and ">clear</td>" in page


def test_html_table_formats_shades_and_shortens():
    frame = pd.DataFrame(
        {"p": [0.5, np.nan, 1.0], "name": ["<x>", "y", "z"]}, index=pd.Index([1, 2, 3], name="n")
    )
    shown = html.table(frame, formats={"p": html.number(1)}, shade=["p"], max_rows=2)
    assert 'rgba(0, 114, 178, 0.225);">0.5</td>' in shown
    assert ">–</td>" in shown and shown.count("rgba") == 1
    assert "&lt;x&gt;" in shown and "… and 1 more row<" in shown
    assert ">z<" not in shown
    assert ">3</th>" in html.table(frame) and ">3</th>" not in html.table(frame, index=False)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "under 1 %"), (0.006, "1 %"), (0.5, "50 %"), (0.994, "99 %"), (1.0, "over 99 %")],
)
def test_percent_calls_nothing_certain(value, text):
    assert html.percent(value) == text


def test_plot_shows_ranks_intervals_and_divergence(rng):
    draws = 2.4 + np.linspace(0, 0.02, 14) + rng.normal(0, 0.01, size=(200, 14))
    draws[:10, 3] = INF
    labels = [f"c${i}$" for i in range(14)]
    r = Ranking.from_draws(draws, labels=labels, divergence_loss=2.46)
    figure = r.plot(top=12)
    assert isinstance(figure, Figure)
    left, right = figure.axes
    assert [t.get_text() for t in left.get_yticklabels()] == list(r.table.index[:12])
    assert [t.get_text() for t in left.get_xticklabels()][-2:] == ["10", ">10"]
    assert left.get_title() == "P(rank), % (first 12 of 14)"
    shown = left.images[0].get_array()
    np.testing.assert_allclose(np.ma.filled(shown, 0).sum(axis=1), 1.0)
    centres = [line for line in right.lines if line.get_marker() == "o"]
    drawn = np.concatenate([line.get_xdata(orig=False) for line in centres])
    np.testing.assert_allclose(np.sort(drawn), np.sort(r.table["loss_mean"][:12]))
    assert [t.get_text() for t in right.texts] == ["diverges 5 %"]
    figure.canvas.draw()


def test_plots_draw_on_given_axes(rng):
    r = Ranking.from_draws(2.4 + rng.normal(0, 0.01, size=(50, 4)))
    figure, (a, b) = plt.subplots(1, 2)
    assert r.plot(ax=a) is figure and len(a.child_axes) == 2
    assert r.plot_pairs(ax=b, top=3) is figure
    assert "first 3 of 4" in b.get_title()
    cells = np.ma.filled(b.images[0].get_array(), np.nan)
    want = r.p_better.to_numpy()[:3, :3].copy()
    np.fill_diagonal(want, np.nan)
    np.testing.assert_allclose(cells, want)
    texts = {t.get_text() for t in b.texts}
    assert f"{100 * want[0, 1]:.0f}" in texts and len(b.texts) == 6
    figure.canvas.draw()
