"""pyproject.toml (ranges), constraints.txt (pins), environment.yml and the Makefile say the same."""

import glob
import os
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

import repro

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["repro"]
PYTHONS = ("3.11", "3.12", "3.13")


def pins() -> dict[str, Version]:
    lines = [line.split("#")[0].strip() for line in (ROOT / "constraints.txt").read_text().splitlines()]
    found = [line.split("==") for line in filter(None, lines)]
    names = [canonicalize_name(name) for name, _ in found]
    assert len(set(names)) == len(names), "a package is pinned twice"
    return dict(zip(names, (Version(pin) for _, pin in found), strict=True))


def test_every_direct_dependency_is_pinned_inside_its_range():
    extras = [line for group in PROJECT["optional-dependencies"].values() for line in group]
    for requirement in map(Requirement, (*PROJECT["dependencies"], *extras)):
        pin = pins().get(canonicalize_name(requirement.name))
        assert pin is not None and pin in requirement.specifier, f"{requirement} is pinned to {pin}"


def test_accepted_pythons_agree_and_conda_hands_over_to_pip():
    accepted = SpecifierSet(PROJECT["requires-python"])
    assert all(f"{python}.0" in accepted for python in PYTHONS)
    assert "3.10.9" not in accepted and "3.14.0" not in accepted
    makefile = (ROOT / "Makefile").read_text()
    assert "(3, 11) <= sys.version_info[:2] <= (3, 13)" in makefile and "3.11, 3.12 or 3.13" in makefile
    python, pip, through_pip = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    assert python.removeprefix("python=") in PYTHONS and pip == "pip"
    assert through_pip == {"pip": ["-c constraints.txt", "-e .[dev]"]} and "-c constraints.txt -e '.[dev]'" in makefile


def test_version_and_tag_agree():
    assert repro.__version__ == PROJECT["version"]
    assert SETTINGS["tag"] == f"v{PROJECT['version']}"
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == PROJECT["version"]


def test_package_data_reaches_a_wheel():
    """What the code reads beside itself is named in package-data: an installed copy would lack it otherwise."""
    data = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    tracked = subprocess.run(["git", "ls-files", "repro"], cwd=ROOT, capture_output=True, text=True).stdout.split("\n")
    if not any(tracked):
        pytest.skip("not a git checkout")
    packages = {str(Path(name).parent) for name in tracked if name.endswith("/__init__.py")}
    taken = set()
    for package in packages:
        for pattern in (*data["*"], *data.get(package.replace("/", "."), ())):
            taken |= {f"{package}/{inside}" for inside in glob.glob(pattern, root_dir=ROOT / package, recursive=True)}
    left = {name for name in tracked if name and not name.endswith(".py")} - taken
    assert not left, f"no pattern of package-data takes these into the wheel: {sorted(left)[:5]}"


def run_make(folder: Path, *arguments: str, path: Path | None = None) -> subprocess.CompletedProcess:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS"))}
    if path is not None:
        environment["PATH"] = str(path)
    return subprocess.run(
        [shutil.which("make"), *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=60
    )


@pytest.fixture
def fresh(tmp_path: Path) -> Path:
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def fake_python(folder: Path, body: str) -> Path:
    """An executable that answers --version as told and runs nothing else."""
    folder.mkdir(exist_ok=True)
    program = folder / "python3"
    program.write_text(f"#!/bin/sh\n{body}\n")
    program.chmod(0o755)
    return program


@pytest.mark.skipif(shutil.which("make") is None, reason="no make on this machine")
class TestMake:
    def test_another_or_a_missing_python_is_refused_in_one_sentence(self, fresh):
        old = fake_python(fresh / "bin", '[ "$1" = --version ] && echo Python 3.9.1 && exit 0; exit 1')
        for python, words in ((old, "3.9.1"), (f"{fresh}/nothing", "is needed")):
            done = run_make(fresh, "install", f"PYTHON={python}")
            (line,) = [line for line in done.stderr.splitlines() if line.startswith("[install]")]
            assert done.returncode != 0 and not (fresh / ".venv").exists()
            assert "3.11, 3.12 or 3.13" in line and words in line

    def test_failed_installation_leaves_no_stamp_and_shows_the_log(self, fresh):
        """pip fails behind a pipe that succeeds; make must fail all the same."""
        (fresh / ".venv").mkdir()
        pip = 'case "$*" in *"pip install"*) echo Collecting torch; echo no such pin >&2; exit 1;; esac'
        fake_python(fresh / ".venv/bin", pip).rename(fresh / ".venv/bin/python")
        done = run_make(fresh, "test")
        assert done.returncode != 0 and "of about" in done.stdout
        assert "pip failed" in done.stderr and "no such pin" in done.stderr
        assert not (fresh / ".venv/.installed").exists()

    def test_existing_environment_is_kept_and_that_of_a_moved_clone_is_made_again(self, fresh):
        """The scripts of a moved one name an interpreter that is gone."""
        (fresh / ".venv").mkdir()
        (fresh / ".venv/.installed").write_text(f"{fresh}\n")
        done = run_make(fresh, "install")
        assert done.returncode == 0 and "[install]" not in done.stdout
        assert "make reproduce" in run_make(fresh).stdout
        (fresh / ".venv/.installed").write_text("/somewhere/else\n")
        venv = '[ "$1" = --version ] && echo Python 3.12.0; [ "$1$2" = -mvenv ] && exit 1; exit 0'
        done = run_make(fresh, "install", f"PYTHON={fake_python(fresh / 'bin', venv)}")
        assert done.returncode != 0 and "making it again" in done.stdout and "its venv module is needed" in done.stderr
        assert not (fresh / ".venv").exists()
