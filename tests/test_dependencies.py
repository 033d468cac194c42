"""What pyproject declares: every library that is imported, capped; versions known to work."""

import ast
import importlib.metadata
import re
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]

UNCAPPED = {"numba", "llvmlite", "pyarrow"}
"""Pytensor caps the first two; of the third only a floor is known to matter."""


def declared(*texts):
    """Requirements of lists of them, without the project's own extras."""
    found = [Requirement(text) for part in texts for text in part]
    return {r.name.lower(): r for r in found if r.name != "bayes-optlaws"}


def imported():
    """Names of the distributions whose modules the package imports."""
    modules = set()
    for path in (ROOT / "bayes_optlaws").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                modules |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                modules.add(node.module.split(".")[0])
    modules -= {*sys.stdlib_module_names, "bayes_optlaws"}
    owners = importlib.metadata.packages_distributions()
    return {module: {o.lower() for o in owners.get(module, [module])} for module in modules}


def test_every_imported_library_is_declared():
    known = declared(PROJECT["dependencies"], *EXTRAS.values())
    missing = {m for m, owners in imported().items() if not owners & set(known)}
    # a tracker's library that is not installed here goes by its module's name
    assert missing <= {"mlflow"}, missing
    assert "mlflow-skinny" in known


@pytest.mark.parametrize("name", ["dependencies", *EXTRAS])
def test_majors_are_capped(name):
    part = PROJECT["dependencies"] if name == "dependencies" else EXTRAS[name]
    bare = {
        r.name for r in declared(part).values() if not any(s.operator == "<" for s in r.specifier)
    }
    assert bare <= UNCAPPED


def test_pyarrow_is_none_that_runs_code_from_a_file():
    assert "14.0.0" not in declared(EXTRAS["parquet"])["pyarrow"].specifier
    assert "14.0.1" in declared(EXTRAS["parquet"])["pyarrow"].specifier


def test_ci_pins_what_is_declared_within_its_bounds():
    lines = (ROOT / ".ci/constraints.txt").read_text().splitlines()
    pins = dict(re.fullmatch(r"([\w.-]+)==(\S+)", x).groups() for x in lines if "==" in x)
    pins = {name.lower().replace("_", "-"): version for name, version in pins.items()}
    for name, requirement in declared(PROJECT["dependencies"], EXTRAS["test"]).items():
        assert pins[name] in requirement.specifier, name
