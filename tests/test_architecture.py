"""ARCHITECTURE.md is true: folders import downwards only, and nobody reads private names."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "bayes_optlaws"
STUDIES = ROOT / "studies"


def floors(text: str) -> dict[str, int]:
    """Floor of each folder or module at the top of the package, the lowest 0."""
    block = re.search(r"^```text\nfloors[^\n]*\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    assert block, "ARCHITECTURE.md has no block whose first line begins with floors"
    out, floor = {}, 0
    for line in filter(None, map(str.strip, block.group(1).splitlines())):
        if line == "--":
            floor += 1
        else:
            out[line.split()[0]] = floor
    return out


def imports(tree: ast.AST) -> list[tuple[str, list[str], int]]:
    """Imports of the package, wherever they stand: (module, names, line)."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(a.name, [], node.lineno) for a in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: imports in the package are absolute"
            found.append((node.module or "", [a.name for a in node.names], node.lineno))
    return [x for x in found if x[0].split(".")[0] == "bayes_optlaws"]


def top(module: str, names: list[str]) -> list[str]:
    """Folders or modules at the top of the package that an import reaches."""
    parts = module.split(".")
    return [parts[1]] if len(parts) > 1 else [n for n in names if n != "__version__"]


def upward(source: str, path: str, floor: dict[str, int]) -> list[str]:
    """Imports of a file that are not from below its own folder, nor from it."""
    own = path.removesuffix(".py").split("/")[0]
    faults = []
    for module, names, line in imports(ast.parse(source)):
        for target in top(module, names):
            if target not in floor:
                faults.append(f"{path}:{line} imports {target or module}, which has no floor")
            elif target != own and floor[target] >= floor[own]:
                faults.append(f"{path}:{line} imports {target}, which is not below {own}")
    return faults


def private_reads(source: str, path: str) -> list[str]:
    """Imports of private names and modules of the package."""
    return [
        f"{path}:{line} reads {module}.{name}"
        for module, names, line in imports(ast.parse(source))
        for name in [*module.split(".")[1:], *names]
        if name.startswith("_") and not name.startswith("__")
    ]


def circles(sources: dict[str, str]) -> list[list[str]]:
    """Circles of imports among modules, type hints included."""
    known = set(sources)
    edges = {}
    for module, source in sources.items():
        reach = set()
        for base, names, _ in imports(ast.parse(source)):
            whole = {f"{base}.{n}" for n in names}
            reach |= whole & known or {base} & known
        edges[module] = reach - {module}
    found, state, trail = [], {}, []

    def visit(module: str) -> None:
        state[module] = "open"
        trail.append(module)
        for other in sorted(edges[module]):
            if state.get(other) == "open":
                found.append(trail[trail.index(other) :])
            elif other not in state:
                visit(other)
        trail.pop()
        state[module] = "done"

    for module in sorted(edges):
        if module not in state:
            visit(module)
    return found


FLOOR = floors((ROOT / "ARCHITECTURE.md").read_text())
FILES = {
    p.relative_to(PACKAGE).as_posix(): p.read_text()
    for p in sorted(PACKAGE.rglob("*.py"))
    if p != PACKAGE / "__init__.py"
}


def test_every_folder_and_module_at_the_top_has_a_floor():
    present = {path.removesuffix(".py").split("/")[0] for path in FILES}
    assert present == set(FLOOR)


def test_folders_import_from_below():
    assert [f for path, source in FILES.items() for f in upward(source, path, FLOOR)] == []


def test_no_private_name_of_another_module_is_read():
    own = [f for path, source in FILES.items() for f in private_reads(source, path)]
    studies = [
        f for p in sorted(STUDIES.glob("*.py")) for f in private_reads(p.read_text(), p.name)
    ]
    assert own + studies == []


def test_imports_have_no_circle():
    dotted = {
        "bayes_optlaws." + path.removesuffix(".py").replace("/", ".").removesuffix(".__init__"): s
        for path, s in FILES.items()
    }
    assert circles(dotted) == []


def test_the_checks_find_what_they_are_for():
    """Synthetic package: imports up, sideways, inside a function, under TYPE_CHECKING."""
    floor = floors("x\n```text\nfloors\na  first\nb  first\n--\nc  second\n```\n")
    assert floor == {"a": 0, "b": 0, "c": 1}
    fine = "from bayes_optlaws.a import f\nfrom bayes_optlaws import b\n"
    assert upward(fine, "c/x.py", floor) == [] == private_reads(fine, "c/x.py")
    for bad in (
        "from bayes_optlaws.c import f",
        "from bayes_optlaws import c",
        "def g():\n    import bayes_optlaws.c.d",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from bayes_optlaws.c import f",
        "from bayes_optlaws.b import f",
        "from bayes_optlaws.elsewhere import x",
    ):
        assert len(upward(bad, "a.py", floor)) == 1, bad
    for bad in ("from bayes_optlaws.a import _f", "from bayes_optlaws.a._m import f"):
        assert len(private_reads(bad, "c/x.py")) == 1, bad
    ring = {
        "bayes_optlaws.a": "from bayes_optlaws import b",
        "bayes_optlaws.b": "def f():\n    from bayes_optlaws.a import g",
    }
    assert circles(ring) == [["bayes_optlaws.a", "bayes_optlaws.b"]]
    assert circles({**ring, "bayes_optlaws.b": "import numpy"}) == []


def test_modules_have_a_size_that_one_can_read():
    """Split at 600 lines."""
    files = [*PACKAGE.rglob("*.py"), *STUDIES.glob("*.py")]
    assert not {p.name: n for p in files if (n := p.read_text().count("\n")) > 600}
