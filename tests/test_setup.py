"""README, pins, ranges, conda, make, and the first cell of the notebooks."""

import glob
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version
from PIL import Image
from tiny import first_cell

import repro
from repro.cli import main
from repro.data import pack
from repro.engine import front
from repro.errors import ReproError
from repro.ui.setup import PROTECTED, install_missing, start

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
TEXT = README.read_text(encoding="utf-8")


def block(text: str, name: str) -> str:
    return re.search(rf"<!-- {name}:begin -->(.*)<!-- {name}:end -->", text, flags=re.DOTALL)[1]


def test_results_are_those_of_figures():
    wanted = front.rendered(TEXT, ROOT)
    assert block(TEXT, "results") == block(wanted, "results"), "`make reproduce` brings it up to date"
    links = re.compile(r"\]\((\S+)\)")
    assert links.findall(block(TEXT, "notebooks")) == links.findall(block(wanted, "notebooks"))
    with pytest.raises(ReproError, match="one <!-- results:begin --> and one <!-- results:end --> after it"):
        front.rendered(TEXT.replace("<!-- results:end -->", ""), ROOT)


@pytest.mark.parametrize("page", ["README.md", "figures/README.md", "repro/README.md"])
def test_links_lead_somewhere(page):
    path = ROOT / page
    for target in re.findall(r"\]\(([^)#]+)\)", path.read_text(encoding="utf-8")):
        assert target.startswith("https://") or (path.parent / target).exists(), target


def test_snippets_run_as_printed(tmp_path, monkeypatch):
    photo = next(p for p in pack.photos("test"))
    Image.open(photo.path).resize((160, 120)).save(tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    section = TEXT.split("## Use it")[1].split("## Where")[0]
    made = []
    for kind, code in re.findall(r"```(sh|python)\n(.*?)```", section, flags=re.DOTALL):
        if kind == "sh":
            for line in code.splitlines():
                program, *arguments = shlex.split(line, comments=True)
                assert program == ".venv/bin/repro" and main(arguments) == 0
        else:
            exec(compile(code, "README.md", "exec"), {})
        (new,) = [p for p in tmp_path.iterdir() if p.name != "photo.jpg"]
        assert Image.open(new).size == (160, 120)
        made.append((kind, new.name))
        shutil.move(new, tmp_path.parent / f"{len(made)}-{new.name}")
    assert len(made) >= 2


def test_a_line_a_method_with_the_papers_difference_and_ours(tmp_path):
    head, part = "id,part,room,text,verdict,estimate,low,high\n", "low light: below SM-Res"
    rows = f'R2,"{part}",rddm,x,reproduced,-10.5,-11.5,-9.5\nR2,other,rddm,x,weaker,1,,\n'
    (tmp_path / "claims.csv").write_text(head + rows)
    (rddm,) = front.results(tmp_path).splitlines()[2:]
    # the report's Table 1: 15.56 - 23.14 dB
    assert "| −7.6 dB | −10.5 ± 1.0 dB | reproduced; R2: 1 of 2 | 1 reproduced, 1 weaker |" in rddm


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


def run_make(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS"))}
    return subprocess.run(["make", *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=60)


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


# git and pip: both write down what they are called with; git copies the release, pip may fail
PROGRAM = """#!{python}
import json, os, pathlib, shutil, sys
name, arguments = "{name}", sys.argv[1:]
pins = [pathlib.Path(a).read_text() for flag, a in zip(arguments, arguments[1:]) if flag == "--constraint"]
with open(os.environ["LOG"], "a") as log:
    log.write(json.dumps([name, *arguments, *pins]) + "\\n")
if name == "git":
    shutil.copytree(os.environ["RELEASE"], arguments[-1])
elif os.environ.get("PIP_FAILS"):
    sys.exit("ERROR: no matching distribution")
"""


@pytest.fixture
def colab(tmp_path):
    """A machine that looks like Colab: `run(cell)` gives the finished process and the list of logged commands."""
    release, stubs, programs, content = (tmp_path / n for n in ("release", "stubs", "programs", "content"))
    for folder in (release, stubs / "google/colab", stubs / "pip", programs, content):
        folder.mkdir(parents=True)
    package = release / "repro"
    shutil.copytree(ROOT / "repro/ui", package / "ui", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("__init__.py", "errors.py"):
        shutil.copy(ROOT / "repro" / name, package / name)
    (release / "pyproject.toml").write_text(
        '[project]\nname = "repro-diffusion-stub"\n'
        'dependencies = ["torch>=2", "numpy>=999", "ipywidgets>=7.7", "not-here-yet[image]>=1.5,<2", "nor-this"]\n'
    )
    for module in ("google/colab", "pip"):
        (stubs / module / "__init__.py").touch()
    for name, path in {"pip": stubs / "pip/__main__.py", "git": programs / "git"}.items():
        path.write_text(PROGRAM.format(python=sys.executable, name=name))
        path.chmod(0o755)
    log = tmp_path / "log"

    def run(cell: str, **environment: str):
        # the clone, not this checkout, has to be what is imported
        code = f"import sys; sys.path[:] = [p for p in sys.path if p != {str(ROOT)!r}]\n{cell}\n"
        env = {**os.environ, "LOG": str(log), "RELEASE": str(release), "PYTHONPATH": str(stubs), **environment}
        env["PATH"] = f"{programs}{os.pathsep}{env['PATH']}"
        log.unlink(missing_ok=True)
        done = subprocess.run([sys.executable, "-c", code], cwd=content, env=env, capture_output=True, text=True)
        lines = log.read_text().splitlines() if log.exists() else []
        return done, [json.loads(line) for line in lines]

    run.content = content
    return run


AFTER = "\nimport os, repro; print(repro.__file__, os.environ.get('REPRO_HOME'))"


def test_in_colab_the_tagged_release_and_only_what_is_missing(colab):
    done, commands = colab("import google.colab\n" + first_cell() + AFTER)
    assert done.returncode == 0, done.stderr
    home = colab.content / "repro-diffusion"
    git, missing, editable = commands
    address = "https://github.com/OWNER/repro-diffusion"
    assert git == ["git", "clone", "--depth=1", "--branch=v0.1.0", address, str(home)]
    assert missing[:4] == ["pip", "install", "--quiet", "--constraint"]
    assert missing[5:-1] == ["not-here-yet[image]>=1.5,<2", "nor-this"]
    assert all(f"{name}==" in missing[-1] for name in PROTECTED)
    assert editable == ["pip", "install", "--quiet", "--no-deps", "--editable", str(home)]
    for command in commands:
        assert not any(re.match(r"[\w-]*", word)[0] in PROTECTED for word in command[1:-1])
    assert done.stdout.splitlines()[-1] == f"{home / 'repro/__init__.py'} {home}"


def test_run_again_it_does_not_clone_again_and_finishes_what_was_stopped(colab):
    cell = "import google.colab\n" + first_cell()
    done, commands = colab(cell, PIP_FAILS="1")
    assert done.returncode != 0
    assert "pip install stopped with status 1: ERROR: no matching distribution" in done.stderr
    done, commands = colab(cell + AFTER)
    assert done.returncode == 0, done.stderr
    assert [command[0] for command in commands] == ["pip", "pip"]


def test_outside_colab_nothing_is_installed_and_a_missing_package_is_named(colab):
    done, commands = colab(f"sys.path.insert(0, {str(ROOT)!r})\n" + first_cell())
    assert (done.returncode, commands, done.stdout) == (0, [], ""), done.stderr
    # -S would take the site-packages away; hiding the package by name is enough
    hide = "import importlib.util as u; f = u.find_spec; u.find_spec = lambda n: None if n == 'repro' else f(n)\n"
    done, commands = colab(hide + first_cell())
    assert done.returncode != 0 and commands == []
    assert "this kernel lacks repro: see the README of https://github.com/OWNER/repro-diffusion" in done.stderr


def test_of_what_colab_lacks_front_ends_are_left_out_and_torch_is_refused(tmp_path, monkeypatch, capsys):
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "torch"\ndependencies = ["nowhere>=4", "numpy"]\n')
    monkeypatch.setenv("REPRO_HOME", "")
    with monkeypatch.context() as patch:
        patch.setattr("repro.ui.setup.FRONT_ENDS", ("nowhere",))
        install_missing(tmp_path)  # nothing is missing, so that pip is not called
    assert capsys.readouterr().out == "" and os.environ["REPRO_HOME"] == str(tmp_path)
    monkeypatch.setattr("repro.ui.setup.PROTECTED", ("nowhere",))
    with pytest.raises(ReproError, match="this runtime lacks nowhere"):
        install_missing(tmp_path)


def test_start_states_device_profile_time_and_versions(capsys):
    minutes = {"smoke": 0.2, "small": 2.0, "paper": 600}
    start("small", minutes, "01_ddpm_basics")
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("01_ddpm_basics · profile small · ") and first.endswith(" · about 2 min")
    assert ("CPU" in first) != torch.cuda.is_available()
    assert f"Python {sys.version.split()[0]} · torch " in second and "ipywidgets " in second
    with pytest.raises(ReproError, match="profile 'smal' is unknown: choose one of smoke, small, paper"):
        start("smal", minutes, "01_ddpm_basics")
