"""`repro doctor`: what is here, what is wrong with it, what to do; nothing is fetched."""

import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from typing import NamedTuple

from repro import paths
from repro.errors import ReproError


class Finding(NamedTuple):
    """`state` is ok, warn or fail; `text` says what was found and, where it is not ok, what to do."""

    state: str
    text: str


def _of(good: bool, text: str, otherwise: str) -> Finding:
    return Finding("ok", text) if good else Finding("warn", otherwise)


def _packages() -> Iterator[Finding]:
    """Python, and what pyproject.toml requires against what is installed."""
    from packaging.requirements import Requirement

    python = f"Python {platform.python_version()}"
    yield _of((3, 11) <= sys.version_info[:2] <= (3, 13), python, f"{python}: 3.11, 3.12 or 3.13 is tested")
    good = 0
    for each in map(Requirement, requires("repro-diffusion") or ()):
        if each.marker and not each.marker.evaluate({"extra": ""}):
            continue
        try:
            here = version(each.name)
        except PackageNotFoundError:
            here = "(none)"
        if here != "(none)" and each.specifier.contains(here, prereleases=True):
            good += 1
        else:
            yield Finding("fail", f"{each.name} {here} does not fit {each.specifier}: run `make install`")
    yield Finding("ok", f"{good} required packages in their ranges")


def _torch() -> Iterator[Finding]:
    import torch
    import torchvision

    torchvision.ops.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)  # fails where they were built for different versions
    yield Finding("ok", f"torch {torch.__version__} and torchvision {torchvision.__version__} belong together")


def _hardware() -> Iterator[Finding]:
    import torch

    from repro.engine.records import hardware
    from repro.engine.train import has_bf16

    about, threads = hardware(), torch.get_num_threads()
    yield Finding("ok", f"{about['cpu']}, {about['cores']} cores, {threads} threads")
    if threads > about["cores"]:
        yield Finding("warn", f"{threads} threads share {about['cores']} cores: set OMP_NUM_THREADS={about['cores']}")
    yield Finding("ok", f"GPU {about['gpu']}" if "gpu" in about else "no GPU: the profile small needs none")
    fast = has_bf16("cuda" if "gpu" in about else "cpu")
    yield _of(fast, "bf16 in hardware", "no bf16 in this processor: trainings run in fp32")


def _checkpoints() -> Iterator[Finding]:
    """Every shipped checkpoint is loaded: hash against its card, weights against its config."""
    from repro.engine.checkpoint import load_checkpoint
    from repro.engine.registry import experiments

    folders = sorted(p for p in paths.checkpoints().glob("*") if p.is_dir() and not p.name.startswith("."))
    bad = 0
    for folder in folders:
        try:
            load_checkpoint(folder)
        except ReproError as error:
            bad += 1
            yield Finding("fail", f"{error}; restore it with `git checkout -- checkpoints/{folder.name}`")
    found = f"{len(folders) - bad} of {len(folders)} checkpoints load and match their cards"
    yield _of(len(folders) > bad, found, found)
    here = {folder.name for folder in folders}
    for missing in (e for e in experiments() if e.ships and e.name not in here):
        yield Finding("warn", f"no weights of {missing.name} are here: `{missing.command}` makes them")


def _pack() -> Iterator[Finding]:
    from repro.data import pack

    problems = pack.verify()
    yield from (Finding("fail", f"{each}: restore it with `git checkout -- repro/data/pack`") for each in problems)
    if not problems:
        yield Finding("ok", "the embedded images are as committed")


def _disk() -> Iterator[Finding]:
    free = f"{(gigabytes := shutil.disk_usage(paths.root()).free / 1e9):.1f} GB of disk free"
    yield _of(gigabytes >= 2, free, f"{free}: training may fill it")
    if not os.access(paths.root(), os.W_OK):
        yield Finding("warn", f"{paths.root()} cannot be written: nothing can be regenerated here")
    chromium = os.environ.get("REPRO_BROWSER_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    missing = "no Chromium: the browser tests will be skipped (on Debian: apt-get install chromium)"
    yield _of(bool(chromium), f"Chromium at {chromium}, for the browser tests", missing)


CHECKS: tuple[Callable[[], Iterator[Finding]], ...] = (_packages, _torch, _hardware, _checkpoints, _pack, _disk)


def findings() -> Iterator[Finding]:
    """All findings; a check that breaks is itself a failure, and the others still run."""
    for check in CHECKS:
        try:
            yield from check()
        except Exception as error:  # whatever is broken here is what this command is for
            name = check.__name__.strip("_")
            yield Finding("fail", f"the check of {name} broke ({type(error).__name__}: {error}): run `make install`")


@dataclass(frozen=True)
class Doctor:
    """Check this installation: versions, hardware, weights, images; exit status 1 where something fails."""

    def run(self) -> int:
        print(f"clone at {paths.root()}")
        failed = 0
        for state, text in findings():
            print(f"{state:<4}  {text}", flush=True)
            failed += state == "fail"
        return 1 if failed else 0
