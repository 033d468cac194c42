"""Public names say what they take and what they return."""

import inspect
from collections.abc import Iterator

import pytest
from numpydoc.validate import validate

import bayes_optlaws as bo


def members(module, prefix: str) -> Iterator[tuple[str, object]]:
    """Public functions and classes of a module with their dotted names, each once."""
    names = getattr(module, "__all__", [n for n in dir(module) if not n.startswith("_")])
    for name in names:
        value = getattr(module, name)
        if inspect.ismodule(value) and module is bo:
            yield from members(value, f"{prefix}.{name}")
        elif getattr(value, "__module__", "").startswith("bayes_optlaws") and callable(value):
            yield f"{prefix}.{name}", value


NAMES = dict(members(bo, "bayes_optlaws"))
FUNCTIONS = sorted(n for n, v in NAMES.items() if inspect.isroutine(v))
METHODS = sorted(
    f"{name}.{key}"
    for name, value in NAMES.items()
    if inspect.isclass(value)
    for key, method in vars(value).items()
    if not key.startswith("_") and inspect.isroutine(method)
)


def findings(name: str, codes: set[str]) -> list[str]:
    """Findings of numpydoc with these codes."""
    return [f"{name}: {text}" for code, text in validate(name)["errors"] if code in codes]


def test_functions_document_parameters_and_result():
    assert len(FUNCTIONS) > 50
    assert [f for name in FUNCTIONS for f in findings(name, {"PR01", "PR02", "RT01"})] == []


def test_what_methods_and_classes_document_is_there():
    """A method may say all in one line; a section on its parameters is complete and true."""
    found = []
    for name in METHODS:
        sections = validate(name)["docstring"]
        found += findings(name, {"PR01", "PR02"} if "Parameters\n" in sections else {"PR02"})
    found += [f for n, v in NAMES.items() if inspect.isclass(v) for f in findings(n, {"PR02"})]
    assert found == []


@pytest.mark.parametrize("code", ["PR01", "PR02", "RT01"])
def test_the_check_finds_what_it_is_for(code, monkeypatch):
    """On a copy of a function whose docstring has lost its sections, or names what is not there."""

    def wrong(source):
        return source

    wrong.__doc__ = {
        "PR01": "Return a table.\n\n    Returns\n    -------\n    DataFrame\n    ",
        "PR02": "Return a table.\n\n    Parameters\n    ----------\n    path : str\n    ",
        "RT01": "Return a table.\n\n    Parameters\n    ----------\n    source : str\n    ",
    }[code]
    monkeypatch.setattr(bo.datasets, "load", wrong)
    assert findings("bayes_optlaws.datasets.load", {code})
