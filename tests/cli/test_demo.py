"""The commands that start with nothing at hand: init and demo."""

import json
import shlex

import nbformat
import pytest

from bayes_optlaws.cli import demo
from bayes_optlaws.cli.main import main
from bayes_optlaws.runs.readers import read_candidates, read_runs


def test_init_writes_tables_and_a_notebook_that_run(tmp_path, capsys, monkeypatch):
    folder = tmp_path / "a sweep"
    assert main(["init", str(folder)]) == 0
    out = capsys.readouterr().out
    assert main(["init", str(folder)]) == 1  # never over what is there
    capsys.readouterr()
    runs, book = read_runs(folder / "runs.csv"), folder / "first-ranking.ipynb"
    assert len(runs) == 260 and len(read_candidates(folder / "candidates.csv")) == 9
    line = next(x for x in out.splitlines() if "bayes-optlaws check" in x)
    assert main(shlex.split(line)[1:]) == 0
    nbformat.validate(nbformat.read(book, as_version=4))
    code = [c["source"] for c in json.loads(book.read_text())["cells"] if c["cell_type"] == "code"]
    monkeypatch.chdir(folder)
    names = {}
    for source in code[:2]:
        exec(source, names)
    assert len(names["runs"]) == 260
    for source in code[2:]:
        compile(source, "cell", "exec")


def test_the_demo_asks_about_a_scale_that_the_grid_lacks(pocket):
    plan = demo.candidates()
    assert plan.index.is_unique and set(plan["schedule"]) == {"linear", "cosine", "wsd"}
    assert plan["tokens"].min() >= 4 * pocket["tokens"].max()
    assert plan["peak_lr"].between(pocket["peak_lr"].min(), pocket["peak_lr"].max()).all()


def test_demo_figures(small_law, tmp_path):
    names = []
    ranking = small_law.rank(demo.candidates())
    demo.write_figures(small_law, ranking, tmp_path, lambda path: names.append(path.name))
    assert "ranking.png" in names and len(names) == len(list(tmp_path.glob("*.png")))


@pytest.mark.slow
def test_the_demo_writes_what_it_names(small_law, tmp_path, capsys, monkeypatch):
    """The whole command save the fit, which takes a minute."""
    from bayes_optlaws import law as module

    monkeypatch.setattr(module, "OptLaw", lambda: small_law)
    monkeypatch.setattr(type(small_law), "fit", lambda self, *args, **options: self)
    folder = tmp_path / "a demo"
    assert main(["demo", "--report", "-o", str(folder)]) == 0
    out = " ".join(capsys.readouterr().out.split())
    written = {path.name for path in folder.iterdir()}
    assert {
        "report.html",
        "candidates.csv",
        "ranking.csv",
        "plan.csv",
        "law.nc",
        "ranking.png",
    } <= written
    assert all(name in out for name in written)
    assert "Choose" in out and "bayes-optlaws report runs.csv" in out
    assert main(["demo", "-o", str(folder / "law.nc")]) == 1
