"""The house keeps its own rules: sizes, names and what the project may say of itself."""

import ast
import subprocess
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILE_LINES = 400
FUNCTION_LINES = 70
VAGUE_NAMES = {"utils", "util", "common", "helpers", "helper", "manager", "misc"}


def sources():
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.py"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    ).stdout.split()
    found = [ROOT / name for name in listed] or [*(ROOT / "mlzoo").rglob("*.py"), *(ROOT / "tests").rglob("*.py")]
    return [path for path in found if path.exists()]


def functions_of(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


def test_no_file_is_longer_than_400_lines():
    long = {str(p.relative_to(ROOT)): n for p in sources() if (n := len(p.read_text().splitlines())) > FILE_LINES}
    assert not long


def test_no_function_is_70_lines_long_or_longer():
    long = {
        f"{path.relative_to(ROOT)}:{node.name}": lines
        for path in sources()
        for node in functions_of(path)
        if (lines := (node.end_lineno or node.lineno) - node.lineno + 1) >= FUNCTION_LINES
    }
    assert not long


def test_no_file_has_a_name_that_says_nothing():
    assert not [path for path in sources() if path.stem in VAGUE_NAMES]


def test_no_two_test_files_have_the_same_name():
    """Tests are no package, so that pytest could not tell them apart when it runs all of them."""
    names = [path.name for path in sources() if path.is_relative_to(ROOT / "tests") and path.name != "conftest.py"]
    assert sorted(names) == sorted(set(names))


def test_no_test_imports_a_conftest():
    """There are many of that name: which one that is depends on the folders that pytest was given together."""
    tests = [path for path in sources() if path.is_relative_to(ROOT / "tests")]
    assert not [path for path in tests if "conftest" in imported_by(path)]


def imported_by(path):
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    plain = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return plain | {node.module for node in nodes if isinstance(node, ast.ImportFrom)}


@pytest.mark.parametrize("path", [p for p in sources() if p.is_relative_to(ROOT / "mlzoo")], ids=lambda p: p.stem)
def test_every_module_says_what_it_is(path):
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))


def test_nothing_catches_base_exceptions_without_raising_them_again():
    silent = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in sources()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ExceptHandler)
        and (node.type is None or (isinstance(node.type, ast.Name) and node.type.id == "BaseException"))
        and not any(isinstance(inner, ast.Raise) for inner in ast.walk(node))
    ]
    assert not silent


def test_nothing_is_left_unfinished():
    unfinished = [
        str(path.relative_to(ROOT))
        for path in sources()
        if path != Path(__file__)
        and any(word in path.read_text(encoding="utf-8") for word in ("TODO", "FIXME", "NotImplementedError"))
    ]
    assert not unfinished


def modules():
    """Return each module of the package by its name."""
    found = {}
    for path in sources():
        if path.is_relative_to(ROOT / "mlzoo"):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports_of(path, known):
    """Yield the modules that one names anywhere: at its top, for its types, or late."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                yield name if name in known else node.module


def circle_of(graph):
    """Return the names around a circle, or nothing."""
    try:
        tuple(TopologicalSorter(graph).static_order())
    except CycleError as error:
        return error.args[1]
    return []


def test_no_modules_need_each_other_in_a_circle_not_even_for_their_types():
    known = modules()
    # A package's own names are imported from inside it, and its modules may import each other through it.
    graph = {
        name: {other for other in imports_of(path, known) if other in known and other != name}
        for name, path in known.items()
        if path.name != "__init__.py"
    }
    assert not circle_of(graph)


def test_a_circle_would_be_found():
    assert set(circle_of({"a": {"b"}, "b": {"c"}, "c": {"a"}})) == {"a", "b", "c"}
