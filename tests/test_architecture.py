"""ARCHITECTURE.md is true: its map is complete, and imports follow its order."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "bayes_optlaws"


def module_map(text: str) -> list[str]:
    """Paths of the modules in the order of the map."""
    block = re.search(r"^```modules\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    assert block, "ARCHITECTURE.md has no block that opens with ```modules"
    return [line.split()[0] for line in block.group(1).splitlines() if line.strip()]


def dotted(path: str) -> str:
    """Module name of a path: "baselines/__init__.py" is "bayes_optlaws.baselines"."""
    parts = ["bayes_optlaws", *path.removesuffix(".py").split("/")]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def is_type_checking(test: ast.expr) -> bool:
    name = test.attr if isinstance(test, ast.Attribute) else getattr(test, "id", None)
    return name == "TYPE_CHECKING"


def imported_modules(tree: ast.AST, known: set[str]) -> set[str]:
    """Modules of the package that a syntax tree imports, wherever, save under TYPE_CHECKING."""
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.If) and is_type_checking(node.test):
            for child in node.orelse:
                visit(child)
            return
        if isinstance(node, ast.Import):
            found.update(a.name for a in node.names if a.name.split(".")[0] == "bayes_optlaws")
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: imports in the package are absolute"
            base = node.module or ""
            if base.split(".")[0] == "bayes_optlaws":
                for alias in node.names:
                    whole = f"{base}.{alias.name}"
                    found.add(whole if whole in known else base)
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(tree)
    return found


def upward_imports(order: list[str], sources: dict[str, str]) -> list[str]:
    """Every import of a module that does not stand above the importer in the map."""
    rank = {dotted(path): i for i, path in enumerate(order)}
    faults = []
    for path in order:
        for module in sorted(imported_modules(ast.parse(sources[path]), set(rank))):
            if module not in rank:
                faults.append(f"{path} imports {module}, which is not in the map")
            elif rank[module] >= rank[dotted(path)]:
                faults.append(f"{path} imports {module}, which does not stand above it")
    return faults


ORDER = module_map((ROOT / "ARCHITECTURE.md").read_text())


def test_map_names_each_module_once():
    assert len(ORDER) == len(set(ORDER))


def test_every_module_is_in_the_map_and_the_map_names_no_other():
    present = {p.relative_to(PACKAGE).as_posix() for p in PACKAGE.rglob("*.py")}
    present = {p for p in present if not p.startswith("_data/")}
    missing = sorted(present - set(ORDER))
    gone = sorted(set(ORDER) - present)
    assert not missing, f"add a line to the module map of ARCHITECTURE.md for {missing}"
    assert not gone, f"the module map of ARCHITECTURE.md names files that do not exist: {gone}"


def test_imports_only_from_modules_above():
    sources = {path: (PACKAGE / path).read_text() for path in ORDER if (PACKAGE / path).is_file()}
    assert upward_imports([path for path in ORDER if path in sources], sources) == []


def test_the_checks_find_what_they_are_for():
    """Synthetic package: imports up, sideways by name, inside a function, under TYPE_CHECKING."""
    order = module_map("x\n```modules\na.py  first\nb.py  second\n__init__.py  last\n```\n")
    assert order == ["a.py", "b.py", "__init__.py"]
    fine = {
        "a.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import bayes_optlaws.b\n",
        "b.py": "def f():\n    from bayes_optlaws import a\n    return a\n",
        "__init__.py": "from bayes_optlaws.b import f\n",
    }
    assert upward_imports(order, fine) == []
    for bad in (
        "from bayes_optlaws.b import f",
        "from bayes_optlaws import b",
        "def g():\n    import bayes_optlaws.b",
        "import bayes_optlaws as bo",
        "from bayes_optlaws.elsewhere import x",
        "from bayes_optlaws import f",
    ):
        assert len(upward_imports(order, {**fine, "a.py": bad})) == 1, bad


def test_modules_have_a_size_that_one_can_read():
    """Split at 600 lines."""
    long = {p.name: n for p in PACKAGE.rglob("*.py") if (n := p.read_text().count("\n")) > 600}
    assert not long
