"""The core keeps its shape: small files, short functions, few imports, and doors to every part."""

import ast
import importlib
import inspect
import statistics
import sys
from pathlib import Path
from types import ModuleType

import pytest

CORE = Path(__file__).parents[2] / "medsci" / "core"
FILES = sorted(path for path in CORE.rglob("*.py") if "__pycache__" not in path.parts)
MODULES = [path for path in FILES if path.name != "__init__.py"]
ROOMS = sorted(path.parent for path in FILES if path.name == "__init__.py")
MOST_LINES, MEDIAN_LINES, FUNCTION_LINES = 400, 150, 50
MAY_IMPORT = {"torch", "numpy", "jaxtyping", "medsci"} | sys.stdlib_module_names

# Classes and functions that a module shares with its neighbours and not with users, or that users
# reach through the module. Aliases of types need no door.
INSIDE: dict[str, set[str]] = {
    "medsci.core.precision": {"channels_last", "native_bfloat16", "resolve_precision"},
    "medsci.core.denoise.wrappers": {"mean_of", "path_of", "pick", "sd_of"},
    "medsci.core.process.process": {"bridge_noise", "check_bridge"},
    "medsci.core.solve.bridge": {"HasBridge"},
    "medsci.core.solve.evolution": {"Breeder", "Gene"},
    "medsci.core.solve.interpolate": {"sde_drift"},
    "medsci.core.solve.momentum": {"adams_bashforth_differences", "ghvb_weights"},
    "medsci.core.solve.runge_kutta": {"stages"},
    "medsci.core.solve.frame": {
        "Frame", "check_choices", "ddim", "direction", "frame_of", "lagrange",
    },
    "medsci.core.solve.grid": {
        "angle", "check_walkable", "indices", "karras", "log_snr", "neighbours", "ratio",
        "shifted", "uniform",
    },
    "medsci.core.rng": {"mix64"},
}  # fmt: skip


def lines(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(CORE.parents[1]).with_suffix("").parts)


def body_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Count the lines of a function, its docstring left out."""
    end = function.end_lineno or function.lineno
    total = end - function.lineno + 1
    if ast.get_docstring(function, clean=False) is None:
        return total
    text = function.body[0]
    return total - ((text.end_lineno or text.lineno) - text.lineno + 1)


def functions(tree: ast.AST) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return [node for node in ast.walk(tree) if isinstance(node, kinds)]


def imported_at_the_top(tree: ast.Module) -> set[str]:
    """Return the packages that importing the module imports, those for type checkers left out."""
    found: set[str] = set()
    todo: list[ast.stmt] = list(tree.body)
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.add((node.module or "").partition(".")[0])
        elif isinstance(node, ast.If) and "TYPE_CHECKING" not in ast.unparse(node.test):
            todo += [*node.body, *node.orelse]
        elif isinstance(node, ast.Try | ast.With | ast.ClassDef):
            todo += node.body
    return found


def offered(module: ModuleType) -> set[str]:
    """Return the classes and functions that a module defines and names in `__all__`."""
    found = {name: getattr(module, name) for name in module.__all__}
    own = {n: v for n, v in found.items() if getattr(v, "__module__", "") == module.__name__}
    return {n for n, v in own.items() if inspect.isclass(v) or inspect.isfunction(v)}


def test_files_are_small():
    long = {name_of(path): lines(path) for path in FILES if lines(path) > MOST_LINES}
    assert not long
    assert statistics.median(map(lines, MODULES)) <= MEDIAN_LINES


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_functions_are_short(path):
    long = {
        function.name: body_lines(function)
        for function in functions(ast.parse(path.read_text(encoding="utf-8")))
        if body_lines(function) > FUNCTION_LINES
    }
    assert not long


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_imports_at_the_top_are_few(path):
    assert imported_at_the_top(ast.parse(path.read_text(encoding="utf-8"))) <= MAY_IMPORT


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_every_module_says_what_it_offers_and_offers_it(path):
    module = importlib.import_module(name_of(path))
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert ast.get_docstring(tree), "a module opens with a docstring"
    first = tree.body[1]
    named = isinstance(first, ast.Assign) and ast.unparse(first.targets[0]) == "__all__"
    assert named, "__all__ comes right under the docstring"
    assert len(set(module.__all__)) == len(module.__all__)
    for name in module.__all__:
        assert hasattr(module, name)


@pytest.mark.parametrize("room", ROOMS, ids=lambda path: path.name)
def test_every_room_opens_the_door_to_its_parts(room):
    """What the modules of a room offer is found in the room, or named above as not for users."""
    door = importlib.import_module(name_of(room))
    missing = {}
    for path in sorted(room.glob("[!_]*.py")):
        module = importlib.import_module(name_of(path))
        hidden = INSIDE.get(module.__name__, set())
        assert hidden <= set(module.__all__), f"{module.__name__} no longer has {hidden}"
        left = offered(module) - hidden - set(door.__all__)
        if left:
            missing[module.__name__] = sorted(left)
    assert not missing, f"export these from {door.__name__}, or name them in INSIDE: {missing}"


def test_the_checks_can_fail():
    source = "import scipy\nif TYPE_CHECKING:\n    import pandas\n" + "def f():\n" + "    x\n" * 51
    tree = ast.parse(source)
    assert imported_at_the_top(tree) - MAY_IMPORT == {"scipy"}
    assert body_lines(functions(tree)[0]) == 52
    documented = ast.parse('def f():\n    """One.\n\n    Two.\n    """\n    return 1\n')
    assert body_lines(functions(documented)[0]) == 2
    inside = ast.parse("def f():\n    import scipy")
    assert not imported_at_the_top(inside)
    assert offered(importlib.import_module("medsci.core.denoise.denoiser")) == {"Denoiser"}
    assert len(MODULES) > 30
    assert len(ROOMS) == 7
