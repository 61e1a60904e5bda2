"""The layers hold, the core stands on torch and numpy, and some words appear nowhere."""

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ("medsci", "pde", "pipelines", "cli")
CORE_MAY_IMPORT = {"torch", "numpy", "jaxtyping", "medsci"} | set(sys.stdlib_module_names)
MOST_LINES = 400
# Spelled in two halves, so that this file does not hold them.
FORBIDDEN = {
    "a command through a shell": re.compile(r"shell\s*=\s*" + "True"),
    "evaluation of text": re.compile(r"(?<![\w.])(?:ev" + r"al|ex" + r"ec)\("),
    "pickle": re.compile(r"^\s*(?:import|from)\s+(?:cloud)?pick" + "le|pick" + r"le\.loads?\("),
    "loading of arbitrary objects": re.compile(r"weights_only\s*=\s*" + "False"),
}
# Tests of privacy need a made-up home; it belongs to somebody.
ABSOLUTE = re.compile(
    r"""(?<![\w.$/:)}*])/(?:""" + "root|home|work|Users|opt" + r""")/(?!somebody)\w"""
)


def sources(*folders: str) -> list[Path]:
    found = [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]
    return [path for path in found if "__pycache__" not in path.parts]


def texts() -> Iterator[Path]:
    """Every text file that is ours to write."""
    endings = {".py", ".md", ".toml", ".txt", ".yaml", ".j2", ".json", ".in", ""}
    folders = [*PACKAGE, "tests", "bench", "docs", ".ci", "sample_data"]
    tops = [path for path in ROOT.iterdir() if path.is_file() and path.name != "LICENSE"]
    inside = [path for folder in folders for path in (ROOT / folder).rglob("*") if path.is_file()]
    for path in [*tops, *inside]:
        if path.suffix in endings and "__pycache__" not in path.parts:
            yield path


def imported(tree: ast.AST) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add((node.module or "").partition(".")[0])
    return names


def test_core_imports_torch_and_numpy_only():
    files = sources("medsci/core")
    assert files
    for path in files:
        foreign = imported(ast.parse(path.read_text(encoding="utf-8"))) - CORE_MAY_IMPORT
        assert not foreign, f"{path.relative_to(ROOT)} imports {foreign}"


def test_core_imports_nothing_of_ours_but_itself():
    for path in sources("medsci/core"):
        ours = re.findall(r"(?:from|import)\s+(medsci[\w.]*)", path.read_text(encoding="utf-8"))
        assert all(name.startswith("medsci.core") for name in ours), path.relative_to(ROOT)


def test_the_check_of_imports_sees_one_inside_a_function():
    assert imported(ast.parse("def f():\n    import scipy.ndimage")) == {"scipy"}


@pytest.fixture
def assembled(tmp_path) -> Path:
    """Put the mapped folders where an installed copy has them; import-linter reads folders."""
    no_data = shutil.ignore_patterns("__pycache__", "weights", "recipes")
    shutil.copytree(ROOT / "medsci", tmp_path / "medsci", ignore=no_data)
    for folder in PACKAGE[1:]:
        shutil.copytree(ROOT / folder, tmp_path / "medsci" / folder, ignore=no_data)
    return tmp_path


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    code = "from importlinter.cli import lint_imports_command as c; c()"
    options = ["--config", str(ROOT / "pyproject.toml"), "--no-cache"]
    return subprocess.run(
        [sys.executable, "-c", code, *options],
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=120,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder)},
    )


def test_import_linter_keeps_its_contracts_and_can_break(assembled):
    done = lint(assembled)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout
    with (assembled / "medsci" / "imaging" / "__init__.py").open("a") as file:
        file.write("\nimport medsci.pipelines\n")
    broken = lint(assembled)
    assert broken.returncode == 1
    assert "medsci.imaging is not allowed to import medsci.pipelines" in broken.stdout


def test_every_layer_is_under_contract():
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    layers = next(c["layers"] for c in contracts["contracts"] if c["type"] == "layers")
    named = {name.strip() for row in layers for name in re.split("[:|]", row)}
    rooms = {f"medsci.{p.parent.name}" for p in (ROOT / "medsci").glob("*/__init__.py")}
    rooms |= {f"medsci.{folder}" for folder in PACKAGE[1:]} | {"medsci.errors"}
    assert named == rooms


@pytest.mark.parametrize("path", sources(*PACKAGE, "tests"), ids=lambda p: str(p.relative_to(ROOT)))
def test_one_idea_one_file(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MOST_LINES


@pytest.mark.parametrize("what", FORBIDDEN)
def test_forbidden_in_code(what):
    folders = [*PACKAGE, "bench"]
    if what != "pickle":  # tests prove that objects reach other processes and hostile files do not
        folders.append("tests")
    for path in sources(*folders):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            assert not FORBIDDEN[what].search(line), f"{path.relative_to(ROOT)}:{number}: {line}"


def test_no_file_names_a_folder_of_one_machine():
    for path in texts():
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            assert not ABSOLUTE.search(line), f"{path.relative_to(ROOT)}:{number}: {line}"


@pytest.mark.parametrize(
    ("what", "line"),
    [
        ("a command through a shell", "run(c, shell=" + "True)"),
        ("evaluation of text", "x = ev" + "al(text)"),
        ("pickle", "import pick" + "le"),
        ("loading of arbitrary objects", "load(f, weights_only=" + "False)"),
    ],
)
def test_the_patterns_find_what_they_look_for(what, line):
    assert FORBIDDEN[what].search(line)
    assert not FORBIDDEN["evaluation of text"].search("model.eval()")
    assert ABSOLUTE.search('open("' + "/ho" + 'me/me/x")')
    assert not ABSOLUTE.search("https://example.org/home/x")
