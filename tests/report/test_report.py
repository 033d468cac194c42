"""The report: one page, complete, well-formed, and of the same figures as the law."""

import re
import shutil
import subprocess
import xml.etree.ElementTree as ET

import matplotlib

matplotlib.use("Agg")

import numpy as np
import pandas as pd
import pytest

from bayes_optlaws.cli import demo
from bayes_optlaws.inference import gate
from bayes_optlaws.report import checks
from bayes_optlaws.report.page import report, settings_to_compare
from bayes_optlaws.report.parts import drawing
from bayes_optlaws.runs.pools import default_pool
from bayes_optlaws.runs.readers import read_candidates

BROWSER = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome")
     if (found := shutil.which(name))),
    None,
)  # fmt: skip


@pytest.fixture(scope="module")
def page(small_law, tmp_path_factory):
    folder = tmp_path_factory.mktemp("a folder with spaces")
    return small_law.report(demo.candidates(), path=folder / "my report.html", n_runs=2)


def parsed(path):
    """The page as a tree: a strict parser refuses a tag that is not closed."""
    text = path.read_text(encoding="utf-8")
    assert text.startswith("<!DOCTYPE html>\n")
    return ET.fromstring(text.removeprefix("<!DOCTYPE html>\n"))


def words(element):
    return " ".join("".join(element.itertext()).split())


def cells(section, head):
    """Rows of the first table of a section that has this column."""
    for table in section.iter("table"):
        names = [words(th) for th in table.find("thead").iter("th")]
        if head in names:
            return [
                dict(zip(names, [words(c) for c in row], strict=True))
                for row in table.find("tbody")
            ]
    raise AssertionError(f"no table with a column {head}")


def test_the_page_is_whole_and_fetches_nothing(page):
    tree = parsed(page)
    sections = [s.get("id") for s in tree.iter("section")]
    assert sections == ["answer", "next", "trust", "priors", "posterior", "made"]
    assert [a.get("href") for a in tree.iter("a")] == [f"#{name}" for name in sections]
    assert not list(tree.iter("script")) and not list(tree.iter("link"))
    images = list(tree.iter("img"))
    assert len(images) >= 9
    assert all(i.get("src").startswith("data:image/svg+xml;base64,") for i in images)
    assert all(len(i.get("alt")) > 10 for i in images)
    text = re.sub(r'src="data:[^"]*"', "", page.read_text(encoding="utf-8"))
    assert "http:" not in text and "https:" not in text and "url(" not in text
    assert "@media print" in text


def test_the_answer_comes_first_and_is_that_of_the_ranking(page, small_law):
    ranking = small_law.rank(demo.candidates())
    section = next(parsed(page).iter("section"))
    said = words(section)
    for sentence in ranking.sentences(notes=False):
        assert sentence in said
    for note in ranking.notes:
        assert note in said
    assert said.index(ranking.headline) < said.index("Before you act")
    rows = cells(section, "P(best)")
    assert [row["candidate"] for row in rows] == list(ranking.table.index)
    np.testing.assert_allclose([float(row["loss"]) for row in rows], ranking.table["loss_mean"],
                               atol=5.1e-4)  # fmt: skip
    assert "Before you act" in said and "cosine, wsd" in said and "decades" in said


def test_a_plan_without_worth_is_said(page, small_law):
    said = words(list(parsed(page).iter("section"))[1])
    table = read_candidates(demo.candidates())
    pool = default_pool(small_law.runs, table)
    plan = small_law.design(pool, table, n_runs=2, max_draws=200, progressbar=False)
    assert not plan.table["value"].sum() > 0
    assert plan.answer().startswith(("No single run is expected", "No run is proposed"))
    for sentence in plan.sentences(notes=False):
        assert sentence in said
    assert "worth 0" not in said


@pytest.mark.parametrize("own", [False, True], ids=["runs like those made", "a pool of one's own"])
def test_the_next_runs_are_those_of_the_design(own, small_law, tmp_path):
    table = demo.candidates().iloc[:3].assign(
        peak_lr=[0.012, 0.012, 0.014], schedule=["linear", "cosine", "wsd"],
        warmup_steps=720, cooldown_start_step=[np.nan, np.nan, 11_520],
    )  # fmt: skip
    table = read_candidates(table)
    pool = default_pool(small_law.runs, table)
    plan = small_law.design(pool, table, n_runs=2, max_draws=200, progressbar=False)
    assert len(plan.table) == 2
    path = report(small_law.fitted, table, pool if own else None, tmp_path / "r.html", n_runs=2)
    section = list(parsed(path).iter("section"))[1]
    for sentence in plan.sentences(notes=False):
        assert sentence in words(section)
    rows = cells(section, "what it does most for")
    assert [next(iter(row.values())) for row in rows] == list(plan.table.index)
    assert [row["what it does most for"] for row in rows] == list(plan.table["settles"])
    assert ("peak LR" in rows[0]) is own


def test_the_checks_are_those_of_the_law(page, small_law):
    rows = {row["check"]: row for row in cells(list(parsed(page).iter("section"))[2], "verdict")}
    assert rows["R-hat, worst"]["value"] == f"{small_law.diagnostics['rhat']:.3f}"
    assert rows["R-hat, worst"]["verdict"] == "passes"
    assert rows["decades beyond the fitted scales"]["verdict"] == "far"


def test_failed_and_missing_checks_are_said(small_law, monkeypatch):
    bad = small_law.diagnostics | {"rhat": 1.2, "ess_tail": float("nan")}
    monkeypatch.setitem(small_law.fitted.__dict__, "diagnostics", bad)
    monkeypatch.setattr(checks, "MOST_LEFT_OUT", 10)
    table, pit = checks._checks(small_law.fitted, pd.DataFrame({"extrapolation": [0.1, 0.2]}))
    verdict = table.set_index("check")["verdict"]
    assert list(verdict[verdict == "FAILS"].index) == ["R-hat, worst",
                                                       "effective sample size, tails"]  # fmt: skip
    assert verdict["decades beyond the fitted scales"] == "near"
    assert pit is None and not any("left-out" in name for name in verdict.index)


def test_an_unconverged_law_gives_no_page_unless_asked_and_then_says_so(
    small_law, monkeypatch, tmp_path
):
    bad = small_law.diagnostics | {"divergent": 7.0}
    monkeypatch.setitem(small_law.fitted.__dict__, "diagnostics", bad)
    path = tmp_path / "new folder" / "r.html"
    with pytest.raises(gate.ConvergenceError):
        small_law.report(demo.candidates(), path=path)
    assert not path.exists()
    report(small_law.fitted, demo.candidates(), path=path, n_runs=0, allow_unconverged=True)
    said = words(next(parsed(path).iter("section")))
    assert "UNCONVERGED: do not decide by these numbers" in said and "7 divergent" in said


def test_labels_cannot_break_the_page(small_law, tmp_path):
    table = demo.candidates().iloc[:2].drop(columns="run_id")
    table.index = ["<b>a</b> & \"b\"", "</section><script>x</script>"]  # fmt: skip
    path = report(small_law.fitted, table, path=tmp_path / "r.html", n_runs=1)
    tree = parsed(path)
    assert not list(tree.iter("script")) and not list(tree.iter("b"))[1:]
    assert "</section><script>x</script>" in words(tree)
    assert [p.name for p in tmp_path.iterdir()] == ["r.html"]


def test_without_candidates_the_largest_fitted_scale_is_ranked(small_law, pocket, tmp_path):
    table = settings_to_compare(pocket)
    assert set(table["n_params"]) == {246240} and set(table["tokens"]) == {2457600}
    assert len(table) == 10 and set(table["schedule"]) == {"linear"}
    tree = parsed(report(small_law.fitted, path=tmp_path / "r.html", n_runs=0))
    assert "No candidates were given" in words(tree)
    assert "no proposal was asked for" in words(tree)


def test_one_candidate_is_a_page_too(small_law, tmp_path):
    path = report(small_law.fitted, demo.candidates().iloc[:1], path=tmp_path / "r.html")
    assert "is the only candidate" in words(parsed(path))


def test_options_that_make_no_sense_are_refused(small_law, tmp_path):
    with pytest.raises(ValueError, match="whole number"):
        report(small_law.fitted, path=tmp_path / "r.html", n_runs=-1)
    with pytest.raises(ValueError, match="is a folder"):
        report(small_law.fitted, path=tmp_path)


def test_a_drawing_that_cannot_be_made_says_why():
    def fail():
        raise ValueError("a surface needs runs that differ in both")

    html = drawing(fail, alt="the surface", caption="")
    assert "Not drawn (the surface): a surface needs runs" in html and "<img" not in html


def test_the_default_pool_is_like_the_runs(pocket):
    decide = read_candidates(demo.candidates())
    table = default_pool(pocket, decide)
    finished = pocket[~pocket["diverged"]]
    assert set(table["schedule"]) == {"linear", "cosine", "wsd"}
    assert set(table["n_params"]) <= set(finished["n_params"])
    assert set(table["tokens"]) <= set(finished["tokens"])
    cost = table["n_params"] * table["tokens"]
    assert cost.max() <= (pocket["n_params"] * pocket["tokens"]).max() * (1 + 1e-9)
    low, high = finished["peak_lr"].min(), finished["peak_lr"].max()
    assert table["peak_lr"].between(low * 0.999, high * 1.001).all()
    wsd = table[table["schedule"] == "wsd"]
    share = wsd["cooldown_start_step"] / wsd["steps"]
    np.testing.assert_allclose(share, 0.8, atol=0.001)  # as the candidates
    assert table.index.is_unique


@pytest.mark.skipif(BROWSER is None, reason="no headless browser here")
def test_a_browser_shows_every_figure(page, tmp_path):
    browser = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu",
               f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1000,3000"]  # fmt: skip
    address = page.as_uri()
    dom = subprocess.run([*browser, "--dump-dom", address], capture_output=True, text=True,
                         timeout=120, check=True).stdout  # fmt: skip
    assert dom.count("<img") == len(list(parsed(page).iter("img")))
    assert 'id="posterior"' in dom and "</html>" in dom
    picture = tmp_path / "shot.png"
    subprocess.run([*browser, f"--screenshot={picture}", address], capture_output=True, timeout=120,
                   check=True)  # fmt: skip
    import matplotlib.image as image

    shot = image.imread(picture)[..., :3]
    # the blue box of the answer is near the top, and figures follow: neither blank nor cut short
    blue = np.all(np.abs(shot - np.array([0xEA, 0xF4, 0xFB]) / 255) < 0.01, axis=2)
    assert blue[:600].sum() > 50_000
    assert (shot[1000:2900] < 0.9).any(axis=2).mean() > 0.02
