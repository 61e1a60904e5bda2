"""What is built is what is here: every folder listed, every data file in, nothing else beside."""

import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import medsci

ROOT = Path(__file__).parent.parent
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
MAPPED = {"medsci": "medsci", "pde": "medsci.pde", "pipelines": "medsci.pipelines"}
MAPPED["cli"] = "medsci.cli"


def packages_here() -> set[str]:
    found = set()
    for folder, name in MAPPED.items():
        for init in (ROOT / folder).rglob("__init__.py"):
            found.add(".".join([name, *init.parent.relative_to(ROOT / folder).parts]))
    return found


@pytest.fixture(scope="module")
def names_in_wheel(tmp_path_factory) -> list[str]:
    """Build a wheel from a copy (so that nothing is left here) and list it."""
    import shutil

    copy = tmp_path_factory.mktemp("source")
    for folder in MAPPED:
        shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "MANIFEST.in"):
        shutil.copy(ROOT / name, copy / name)
    done = subprocess.run(
        [sys.executable, "-c",
         "import sys; from setuptools import build_meta; print(build_meta.build_wheel('dist'))"],
        capture_output=True, text=True, cwd=copy, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (wheel,) = (copy / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


def test_every_package_is_listed():
    listed = SETTINGS["tool"]["setuptools"]["packages"]
    assert set(listed) == packages_here()
    assert len(listed) == len(set(listed))


def test_every_mapped_folder_is_mapped():
    mapped = {v: k for k, v in SETTINGS["tool"]["setuptools"]["package-dir"].items()}
    assert mapped == MAPPED


def test_version_is_said_once():
    assert SETTINGS["project"]["version"] == medsci.__version__


def test_nothing_lands_beside_medsci(names_in_wheel):
    tops = {name.partition("/")[0] for name in names_in_wheel}
    assert tops == {"medsci", f"medsci-{medsci.__version__}.dist-info"}


def test_every_module_is_in_the_wheel(names_in_wheel):
    for folder, name in MAPPED.items():
        for path in (ROOT / folder).rglob("*.py"):
            inside = "/".join([*name.split("."), *path.relative_to(ROOT / folder).parts])
            assert inside in names_in_wheel


def test_every_data_file_is_in_the_wheel(names_in_wheel):
    wanted = ["medsci/py.typed"]
    for folder, name in MAPPED.items():
        for path in (ROOT / folder).rglob("*"):
            if path.is_file() and path.suffix not in (".py", ".pyc"):
                parts = [*name.split("."), *path.relative_to(ROOT / folder).parts]
                wanted.append("/".join(parts))
    missing = set(wanted) - set(names_in_wheel)
    assert not missing
    assert any(name.endswith(".yaml") for name in wanted)
    assert any(name.endswith(".html.j2") for name in wanted)


def test_the_shipped_prior_is_in_the_wheel(names_in_wheel):
    for name in ("config.json", "model.safetensors", "MODEL_CARD.md"):
        assert f"medsci/models/weights/brain-t1-2d/{name}" in names_in_wheel


def test_the_wheel_carries_its_licence_and_command(names_in_wheel):
    info = f"medsci-{medsci.__version__}.dist-info"
    assert f"{info}/licenses/LICENSE" in names_in_wheel
    assert f"{info}/entry_points.txt" in names_in_wheel
    assert "Apache License" in (ROOT / "LICENSE").read_text(encoding="utf-8")


def test_every_dependency_has_a_pin():
    import re

    pins = {
        re.sub(r"[-_.]+", "-", line.partition("==")[0]).lower()
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if line and not line.startswith("#")
    }
    extras = SETTINGS["project"]["optional-dependencies"]
    for wanted in [*SETTINGS["project"]["dependencies"], *extras["dev"]]:
        name = re.split(r"[<>=!~\s\[;]", wanted)[0]
        assert re.sub(r"[-_.]+", "-", name).lower() in pins, wanted


def test_pins_are_plain():
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        assert line.startswith("#") or ("==" in line and "/" not in line and "@" not in line)
