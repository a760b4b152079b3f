"""The shape of the code: what imports what, and how long a thing may be."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = sorted([*ROOT.glob("*.py"), *ROOT.glob("routes/*.py"), *ROOT.glob("imports/[a-z]*.py")])
LONGEST_FUNCTION = 40
LONGEST_FILE = 310
# A list of tables and shapes grows with the API and is read by name, not from top to bottom.
LISTS = {"models.py"}

# Each module may import those to the right of it in its row's company, never back, never sideways.
LAYERS = [
    {"main"},
    {"commands", "openapi"},
    {"routes"},
    {"events"},
    {"relay", "turns", "catalogue", "search", "imports.intake", "backup", "points"},
    {"drafting", "imports.own"},
    {"questions", "imports.results", "usage", "saving"},
    {"imports.keeping", "imports.rows"},
    {"interchange", "memory", "context", "providers", "references", "reply", "versions"},
    {"imports.chatgpt", "imports.claude", "imports.open_webui", "imports.librechat"},
    {"imports.chats", "imports.files"},
    {"imports.pieces"},
    {"history", "upstream", "deltas", "echo", "poe"},
    {"db"},
    {"seeds", "guard", "index", "markdown", "connections", "limits", "manual", "statements"},
    {"models"},
    {"fields"},
    {"settings", "errors", "examples"},
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}


def imports(path: Path) -> set[str]:
    """The modules of this project that a file imports, `routes.x` told as `routes`."""
    names = set[str]()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module == "imports":
            names |= {f"imports.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return {name for name in map(place, names) if name in LEVEL}


def place(name: str) -> str:
    """A module's name among the layers."""
    return name if name.startswith("imports.") else name.partition(".")[0]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_imports_point_one_way(path: Path) -> None:
    if path.parent.name == "routes":
        own, allowed = LEVEL["routes"], {"routes"}
        siblings = {
            node.module
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("routes")
        }
        assert siblings <= {"routes.deps"}
    else:
        room = "imports." if path.parent.name == "imports" else ""
        own, allowed = LEVEL[room + path.stem], set[str]()
    backward = {name for name in imports(path) - allowed if LEVEL[name] <= own}
    assert not backward


def test_every_module_has_its_place() -> None:
    places = {path.stem for path in ROOT.glob("*.py")} | {"routes"}
    places |= {f"imports.{path.stem}" for path in ROOT.glob("imports/[a-z]*.py")}
    assert places == set(LEVEL)


def test_only_one_module_imports_the_official_client() -> None:
    importers = {
        path.name
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text()))
        if (isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "openai")
        or (isinstance(node, ast.Import) and any(a.name.startswith("openai") for a in node.names))
    }
    assert importers == {"upstream.py"}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_functions_and_files_stay_short(path: Path) -> None:
    source = path.read_text()
    if path.name not in LISTS:
        assert len(source.splitlines()) <= LONGEST_FILE
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            assert node.end_lineno - node.lineno < LONGEST_FUNCTION, node.name


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_a_module_opens_with_a_sentence_unless_its_path_says_it(path: Path) -> None:
    assert path.parent.name == "routes" or ast.get_docstring(ast.parse(path.read_text()))
