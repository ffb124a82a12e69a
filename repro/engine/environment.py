"""Where and how long: what a record keeps beside its values and no id or compared table contains."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "torchvision", "diffusers", "accelerate", "numpy", "torchmetrics", "lpips", "scikit-image")


@dataclass
class Measured:
    """Filled in when the block ends: seconds, peak resident memory in MB (10^6 bytes) and of which span, GPU peak."""

    wall_s: float = 0.0
    peak_mb: float = 0.0
    peak_of: str = "block"  # "process" where the kernel cannot reset its high-water mark
    peak_gpu_mb: float | None = None


@contextmanager
def measured() -> Iterator[Measured]:
    """Time a block and take its peak memory: `with measured() as m: ...`, then `environment(m)`. Blocks do not nest."""
    result = Measured(peak_of="block" if _reset_peak() else "process")
    cuda = _cuda()
    if cuda:
        cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    try:
        yield result
    finally:
        if cuda:
            cuda.synchronize()
            result.peak_gpu_mb = round(cuda.max_memory_allocated() / 1e6, 1)
        result.wall_s = round(time.perf_counter() - start, 3)
        result.peak_mb = round(_peak_bytes() / 1e6, 1)


def environment(m: Measured | None = None) -> dict[str, Any]:
    """A record's `environment`: versions, hardware, threads, commit, date, and the measurement given."""
    found: dict[str, Any] = {
        "versions": versions(),
        "hardware": hardware(),
        "threads": threads(),
        "commit": commit(),
        "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
    if m is not None:
        found |= {"wall_s": m.wall_s, "peak_mb": m.peak_mb, "peak_of": m.peak_of}
        found |= {} if m.peak_gpu_mb is None else {"peak_gpu_mb": m.peak_gpu_mb}
    return found


def versions() -> dict[str, str]:
    """Python and the installed packages that numbers depend on, read without importing them."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def hardware() -> dict[str, Any]:
    """Processor, cores this process may use, and the accelerator if torch has one."""
    found: dict[str, Any] = {"cpu": _cpu_name(), "cores": _cores()}
    cuda = _cuda()
    if cuda:
        found["gpu"] = cuda.get_device_name()
    return found


def threads() -> int:
    """Threads torch computes with (of this process's cores where torch is not loaded)."""
    torch = sys.modules.get("torch")
    return torch.get_num_threads() if torch else _cores()


def commit() -> str | None:
    """The clone's commit, with "+" where tracked files differ from it; None outside git."""
    here = Path(__file__).parent
    try:
        head = _git(here, "rev-parse", "--short=12", "HEAD")
        return head + ("+" if _git(here, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True, timeout=30
    )
    return done.stdout.strip()


def _cuda() -> Any:
    """torch.cuda where torch is loaded and has a device; nothing is imported for the question."""
    torch = sys.modules.get("torch")
    return torch.cuda if torch and torch.cuda.is_available() else None


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _reset_peak() -> bool:
    """Linux forgets the process's high-water mark on request (proc(5), clear_refs 5); elsewhere it lasts for life."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def _peak_bytes() -> int:
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
