"""Notebooks are executed from top to bottom, ask a question first and say last what to do.

That they run is checked by ``make notebooks``, which takes minutes.
"""

import ast
import json
import re
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parent.parent / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


def read(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [cell | {"source": "".join(cell["source"])} for cell in cells]


def test_there_are_notebooks_and_their_numbers_differ():
    numbers = [path.name.split("-")[0] for path in NOTEBOOKS]
    assert len(numbers) >= 5 and len(set(numbers)) == len(numbers)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_executed_in_order_without_error(path):
    code = [cell for cell in read(path) if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell["outputs"]]
    assert outputs and not [o for o in outputs if o["output_type"] == "error"]
    printed = "".join("".join(o.get("text", "")) for o in outputs)
    assert "Warning" not in printed and "Traceback" not in printed
    assert not re.search(r"/(tmp|home|root|work)/", printed)
    assert path.stat().st_size < 3_000_000


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_asks_first_and_says_last_what_to_do(path):
    first, *_, last = read(path)
    title = first["source"].splitlines()[0]
    assert first["cell_type"] == "markdown" and title.startswith("# ") and title.endswith("?")
    assert last["cell_type"] == "markdown" and "## What to do" in last["source"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_uses_public_names_only(path):
    """Nothing of the package that begins with an underscore."""
    for cell in read(path):
        if cell["cell_type"] != "code":
            continue
        for node in ast.walk(ast.parse(cell["source"])):
            private = isinstance(node, ast.Attribute) and node.attr.startswith("_")
            assert not private, f"{path.name} uses {node.attr}"
            if isinstance(node, ast.ImportFrom):
                assert not any(alias.name.startswith("_") for alias in node.names)
