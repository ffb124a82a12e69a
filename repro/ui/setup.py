"""How a notebook begins: the cell that fetches the repository where a notebook stands alone, and the lines that say on
what it runs. Imported in Colab before anything is installed, so the standard library only.
"""

import importlib.metadata
import os
import platform
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Mapping
from pathlib import Path

from repro.errors import ReproError, one_of

# The runtime's own: replacing one of them in a live kernel breaks it, so they are neither installed nor upgraded.
PROTECTED = ("torch", "torchvision", "numpy", "ipywidgets")
# Colab is the front end there; JupyterLab would replace servers that it runs on.
FRONT_ENDS = ("jupyterlab", "ipykernel")
VERSIONS = ("torch", "diffusers", "numpy", "ipywidgets")


def installed(name: str) -> str | None:
    """The installed version of a distribution, or None."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def install_missing(home: Path) -> None:
    """Install the project's dependencies of which no version is there, front ends aside, then the clone itself; run
    again, it goes on where it was stopped. A constraint file pins the protected versions: nothing new pulls in another
    torch. Raises `ReproError` where a protected one is missing: such a runtime is none for notebooks."""
    from packaging.requirements import Requirement  # Jupyter's own needs it: it is there

    project = tomllib.loads((Path(home) / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed = {Requirement(line).name: line for line in project["dependencies"]}
    missing = {name: line for name, line in needed.items() if not installed(name)}
    if lacking := [name for name in missing if name in PROTECTED]:
        raise ReproError(f"this runtime lacks {', '.join(lacking)}: choose a Colab runtime that has torch and widgets")
    if missing := {name: line for name, line in missing.items() if name not in FRONT_ENDS}:
        print(f"installing what is missing: {', '.join(missing)}", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            constraints = Path(folder) / "constraints.txt"
            constraints.write_text("".join(f"{name}=={installed(name)}\n" for name in PROTECTED if installed(name)))
            _pip("--constraint", str(constraints), *missing.values())
    if not installed(project["name"]):
        _pip("--no-deps", "--editable", str(home))
    os.environ["REPRO_HOME"] = str(home)
    importlib.invalidate_caches()


def _pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "install", "--quiet", *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise ReproError(f"pip install stopped with status {done.returncode}: {last}")


def start(profile: str, expected_minutes: Mapping[str, float], notebook: str) -> None:
    """Print on what, how and for how long a notebook runs.

    expected_minutes: measured minutes per profile; its keys are the profiles that the notebook accepts.
    notebook: its name, such as "01_ddpm_basics". Raises `ReproError` for another profile.
    """
    import torch

    threads, minutes = torch.get_num_threads(), expected_minutes[one_of("profile", profile, expected_minutes)]
    hardware = f"CPU, {threads} thread{'' if threads == 1 else 's'}"
    if torch.cuda.is_available():
        hardware = f"{torch.cuda.get_device_name()}, {torch.cuda.mem_get_info()[1] / 2**30:.0f} GiB"
    duration = f"{max(1, round(minutes * 60))} s" if minutes < 1 else f"{minutes:.2g} min"
    duration = f"{minutes / 60:.2g} h" if minutes >= 120 else duration
    versions = " · ".join(f"{name} {installed(name) or 'not installed'}" for name in VERSIONS)
    print(f"{notebook} · profile {profile} · {hardware} · about {duration}")
    print(f"Python {platform.python_version()} · {versions}")
    if "google.colab" in sys.modules and profile == "paper" and not torch.cuda.is_available():
        print("This Colab runtime has no GPU: Runtime > Change runtime type, or stay with the small profile.")
