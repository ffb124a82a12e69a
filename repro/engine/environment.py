"""Where and how long: what a record keeps beside its values and no id or compared table contains."""

import os
import platform
import resource
import subprocess
import sys
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("torch", "torchvision", "diffusers", "accelerate", "numpy", "torchmetrics", "lpips", "scikit-image")


def environment() -> dict[str, Any]:
    """A record's `environment`: versions, hardware, threads, commit, date."""
    return {
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        "hardware": hardware(),
        "threads": torch.get_num_threads(),
        "commit": commit(),
        "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }


def since(start: float) -> dict[str, Any]:
    """Seconds since `start` (of `time.perf_counter`), and the process's peak memory so far in MB (10^6 bytes)."""
    unit = 1 if sys.platform == "darwin" else 1024
    peak = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6, 1)
    found = {"wall_s": round(time.perf_counter() - start, 3), "peak_mb": peak, "peak_of": "process"}
    gpu = torch.cuda.is_available()
    return found | ({"peak_gpu_mb": round(torch.cuda.max_memory_allocated() / 1e6, 1)} if gpu else {})


def hardware() -> dict[str, Any]:
    """Processor, cores this process may use, and the accelerator if torch has one."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8", errors="replace").splitlines() if info.exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    found: dict[str, Any] = {"cpu": models[0] if models else platform.processor() or platform.machine(), "cores": cores}
    return found | ({"gpu": torch.cuda.get_device_name()} if torch.cuda.is_available() else {})


def commit() -> str | None:
    """The clone's commit, with "+" where tracked files differ from it; None outside git."""
    git = ["git", "-C", str(Path(__file__).parent)]
    commands = (["rev-parse", "--short=12", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
    try:
        head, changed = (
            subprocess.run([*git, *words], capture_output=True, text=True, check=True, timeout=30).stdout.strip()
            for words in commands
        )
        return head + "+" * bool(changed)
    except (OSError, subprocess.SubprocessError):
        return None
