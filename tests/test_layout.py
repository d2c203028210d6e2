"""The layout of docs/architecture.md, held where the import contract of pyproject.toml cannot hold it.

Each list of exceptions is compared both ways. A new offender fails, and so does a listed one that was mended.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Collection, Iterator
from pathlib import Path

import grimp
import networkx as nx
import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "rtdyn").rglob("*.py"))

BESIDE_THE_ROOMS = {"baselines", "end_to_end", "loopback", "support"}
"""Folders of tests/ that mirror none of rtdyn/: stored numbers, whole commands, servers that play others, helpers."""

LONGEST_FUNCTION, LONGEST_FILE = 80, 400
"""Lines."""

CYCLES_OF_NEIGHBOURS: set[object] = set()
LONG_FUNCTIONS: set[object] = set()
LONG_FILES: set[object] = set()
WITHOUT_SHAPE: set[object] = set()


def compare(offenders: Collection[object], listed: Collection[object]) -> None:
    """Fails unless the offenders are those that are listed."""
    new, mended = set(offenders) - set(listed), set(listed) - set(offenders)
    assert not new, f"new offenders: {sorted(map(str, new))}"
    assert not mended, f"mended, so take them off the list: {sorted(map(str, mended))}"


@pytest.fixture(scope="module")
def imports() -> nx.DiGraph:
    """An edge from each module to every module it imports, inside functions and under TYPE_CHECKING too."""
    graph = grimp.build_graph("rtdyn", cache_dir=None)
    edges = nx.DiGraph()
    edges.add_nodes_from(graph.modules)
    edges.add_edges_from((a, b) for a in graph.modules for b in graph.find_modules_directly_imported_by(a))
    return edges


def cycles(edges: nx.DiGraph) -> list[list[str]]:
    """The sets of nodes that reach each other."""
    return [sorted(nodes) for nodes in nx.strongly_connected_components(edges) if len(nodes) > 1]


def neighbours(edges: nx.DiGraph, package: str) -> nx.DiGraph:
    """The imports between the files and folders that lie directly in `package`, a folder standing for all it holds."""
    prefix = f"{package}."
    pairs = (
        [module.removeprefix(prefix).partition(".")[0] for module in edge]
        for edge in edges.edges
        if all(module.startswith(prefix) for module in edge)
    )
    return nx.DiGraph((a, b) for a, b in pairs if a != b)


def functions(file: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """All functions of a file, methods and inner ones among them."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def public_functions(file: Path) -> Iterator[ast.FunctionDef]:
    """The functions of a file, and the methods of its classes, that have no underscore before their name."""
    body = ast.parse(file.read_text(encoding="utf-8")).body
    classes = [node for node in body if isinstance(node, ast.ClassDef) and not node.name.startswith("_")]
    for node in [*body, *(member for cls in classes for member in cls.body)]:
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            yield node


def names_an_array(function: ast.FunctionDef) -> bool:
    """Whether an array or tensor stands anywhere in the types of the arguments or of what is returned."""
    arguments = function.args
    all_of_them = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    types = [a.annotation for a in all_of_them if a.annotation] + ([function.returns] if function.returns else [])
    nodes = [node for annotation in types for node in ast.walk(annotation)]
    names = {node.id for node in nodes if isinstance(node, ast.Name)}
    names |= {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    return bool(names & {"ndarray", "NDArray", "Tensor"})


def holds_a_shape(text: str) -> bool:
    """Whether parentheses hold axes between commas, each of at most three words: `(F,)`, `(N, 1 + heads)`, `(…, V)`."""
    axis = re.compile(r"\s*(?:[\w.…·+−*/-]+\s*){0,3}")
    inner = re.findall(r"\(([^()]*,[^()]*)\)", text)
    return any(all(axis.fullmatch(part) for part in one.split(",")) for one in inner)


def names_of_polars(file: Path) -> Iterator[str]:
    """The names that a file takes from polars, as `pl.name` or by `from polars import name`."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in ("pl", "polars"):
            yield node.attr
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "polars":
            yield from (alias.name for alias in node.names)


def test_no_module_is_part_of_a_cycle(imports: nx.DiGraph) -> None:
    assert len(imports.edges) > 500
    assert cycles(imports) == []


def test_no_neighbours_form_a_cycle(imports: nx.DiGraph) -> None:
    packages = sorted({module.rpartition(".")[0] for module in imports} - {""})
    assert "rtdyn.views" in packages
    found = {(package, " ".join(cycle)) for package in packages for cycle in cycles(neighbours(imports, package))}
    compare(found, CYCLES_OF_NEIGHBOURS)


def test_nothing_imports_what_a_notebook_sees(imports: nx.DiGraph) -> None:
    # the contract's layers are parts of the package, so that they cannot hold the package itself
    assert set(imports.predecessors("rtdyn")) == set()


def test_functions_are_short() -> None:
    compare(
        {
            f"{file.relative_to(ROOT)}: {function.name}"
            for file in SOURCES
            for function in functions(file)
            if (function.end_lineno or 0) - function.lineno + 1 > LONGEST_FUNCTION
        },
        LONG_FUNCTIONS,
    )


def test_files_are_short() -> None:
    lines = {str(file.relative_to(ROOT)): len(file.read_text(encoding="utf-8").splitlines()) for file in SOURCES}
    compare({file for file, count in lines.items() if count > LONGEST_FILE}, LONG_FILES)


def test_one_file_calls_the_readers_of_polars() -> None:
    # they take brackets in a path for a pattern, and then read other files than the one that is named
    readers = re.compile(r"(?:read|scan)_\w+")
    calls = {
        str(file.relative_to(ROOT)): {name for name in names_of_polars(file) if readers.fullmatch(name)}
        for file in SOURCES
    }
    ours = {"read_parquet", "read_parquet_metadata", "read_parquet_schema", "scan_parquet"}
    assert calls["rtdyn/parquet.py"] == ours
    compare({file for file, names in calls.items() if names}, {"rtdyn/parquet.py"})


def test_analyses_say_the_shapes_of_their_arrays() -> None:
    of_arrays = {
        f"{file.relative_to(ROOT)}: {function.name}": ast.get_docstring(function) or ""
        for file in SOURCES
        if file.is_relative_to(ROOT / "rtdyn" / "analyses")
        for function in public_functions(file)
        if names_an_array(function)
    }
    assert len(of_arrays) > 40
    compare({name for name, text in of_arrays.items() if not holds_a_shape(text)}, WITHOUT_SHAPE)


@pytest.mark.parametrize("text", ["(F,) sums", "of (N, F)", "an array (windows, 1 + ablations, F)", "(…, V)", "(2,)"])
def test_shapes_are_told(text: str) -> None:
    assert holds_a_shape(text)


@pytest.mark.parametrize("text", ["", "(F)", "F, d", "(256 MiB at F = 8,192)", "(ties, by the number of the neuron)"])
def test_other_parentheses_are_no_shapes(text: str) -> None:
    assert not holds_a_shape(text)


def test_tests_lie_as_what_they_test() -> None:
    files = [file.relative_to(ROOT / "tests") for file in (ROOT / "tests").rglob("test_*.py")]
    folders = {str(file.parent) for file in files if file.parts[0] not in BESIDE_THE_ROOMS}
    assert len(folders) > 10
    assert {folder for folder in folders if not (ROOT / "rtdyn" / folder).is_dir()} == set()
