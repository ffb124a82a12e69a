"""`repro bench`: our speed against a peer's, measured in one run, in alternating blocks.

A room lists what it measures as `BENCHES` in `repro/<room>/bench.py`. The arms of a bench take turns, a block each, in
an order that changes every round, so that whatever else the machine does falls on all of them; medians are compared.
Peak memory is taken arm by arm, each in a process of its own. Times enter no record and no compared table.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import tyro

from repro import paths
from repro.engine.atomic import write_text
from repro.engine.records import ROOMS
from repro.errors import ReproError

Arm = Callable[[], Iterator[float]]  # setting up until the first value; then a value a block: the work it did


@dataclass(frozen=True)
class Ratio:
    """Speed of one arm over another's, and what is demanded of it (None: only shown)."""

    name: str
    of: str
    over: str
    at_least: float | None = None

    def verdict(self, value: float) -> str:
        if self.at_least is None:
            return "for comparison"
        return f"{'met' if value >= self.at_least else 'MISSED'}: at least {self.at_least:.3g} is asked"


@dataclass(frozen=True)
class Benchmark:
    """One comparison.

    `arms` are made by `make(profile)`; each is a generator whose `next` does one block of work and yields its amount in
    `unit`s. What it does before its first yield is set-up and counts as the first, unmeasured block.
    """

    name: str
    summary: str
    unit: str
    make: Callable[[str], dict[str, Arm]]
    ratios: tuple[Ratio, ...]


@dataclass(frozen=True)
class Block:
    """Work per second of one block: by the clock, and by the processor time this process got."""

    wall: float
    cpu: float


def interleave(arms: dict[str, Arm], rounds: int, warmup: int = 1, say: Callable[[str], None] = print) -> dict:
    """Run the arms in turns; returns the measured blocks of each, round by round: name -> [Block]."""
    running = {}
    for name, start in arms.items():
        say(f"  setting up {name}")
        running[name] = start()
        for _ in range(1 + warmup):
            next(running[name])
    names = list(running)
    found: dict[str, list[Block]] = {name: [] for name in names}
    for turn in range(rounds):
        shift = turn % len(names)
        for name in names[shift:] + names[:shift]:
            _synchronize()
            wall, cpu = time.perf_counter(), time.process_time()
            work = next(running[name])
            _synchronize()
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            found[name].append(Block(work / wall, work / max(cpu, 1e-9)))
        say(f"  round {turn + 1}/{rounds}: " + ", ".join(f"{name} {found[name][-1].wall:.4g}" for name in names))
    for arm in running.values():
        arm.close()
    return found


def ratio(blocks: dict[str, list[Block]], of: str, over: str, clock: str = "wall") -> dict[str, float]:
    """Median over the rounds of the ratio inside each round, with its quartiles."""
    pairs = zip(blocks[of], blocks[over], strict=True)
    values = [getattr(a, clock) / getattr(b, clock) for a, b in pairs]
    low, _, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
    return {"median": statistics.median(values), "q1": low, "q3": high}


def peak_memory(name: str, arm: str, profile: str, threads: int) -> dict[str, float]:
    """Peak memory in MB of one arm in a fresh process: of two blocks, and before it was set up."""
    call = f"from repro.engine.bench import _child; _child({name!r}, {arm!r}, {profile!r}, {threads})"
    done = subprocess.run([sys.executable, "-c", call], capture_output=True, text=True)
    if done.returncode:
        raise ReproError(f"bench {name}: measuring the memory of {arm} failed: {done.stderr.strip()[-300:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def _child(name: str, arm: str, profile: str, threads: int) -> None:
    import torch

    from repro.engine.environment import measured

    torch.set_num_threads(threads)
    start = find(name).make(profile)[arm]
    with measured() as idle:
        pass
    with measured() as m:
        blocks = start()
        for _ in range(3):
            next(blocks)
    found = {"peak_mb": m.peak_mb, "before_mb": idle.peak_mb}
    print(json.dumps(found | ({} if m.peak_gpu_mb is None else {"peak_gpu_mb": m.peak_gpu_mb})))


def benches() -> dict[str, Benchmark]:
    """Every bench of every room, by name."""
    found: dict[str, Benchmark] = {}
    for room in ROOMS:
        module = f"repro.{room}.bench"
        if importlib.util.find_spec(f"repro.{room}") and importlib.util.find_spec(module):
            found |= {each.name: each for each in importlib.import_module(module).BENCHES}
    return found


def find(name: str) -> Benchmark:
    """The bench of that name. Raises `ReproError` that lists them."""
    known = benches()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
        raise ReproError(f"unknown bench {name!r}: {hint}")
    return known[name]


def measure(bench: Benchmark, profile: str, rounds: int, threads: int, memory: bool = True) -> dict[str, Any]:
    """The whole result as plain data: medians, ratios, memory, environment."""
    import torch

    from repro.engine.environment import environment

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        blocks = interleave(bench.make(profile), rounds)
    finally:
        torch.set_num_threads(before)
    arms = {
        name: {
            f"{bench.unit}/s": statistics.median(b.wall for b in found),
            f"{bench.unit} per processor second": statistics.median(b.cpu for b in found),
            **(peak_memory(bench.name, name, profile, threads) if memory else {}),
        }
        for name, found in blocks.items()
    }
    ratios = {
        r.name: {
            **ratio(blocks, r.of, r.over),
            "by processor time": ratio(blocks, r.of, r.over, "cpu")["median"],
            "at least": r.at_least,
            "verdict": r.verdict(ratio(blocks, r.of, r.over)["median"]),
        }
        for r in bench.ratios
    }
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    about = environment() | {"threads": threads, "load": load}
    return {
        "bench": bench.name,
        "summary": bench.summary,
        "profile": profile,
        "rounds": rounds,
        "arms": arms,
        "ratios": ratios,
        "environment": about,
    }


def told(result: dict[str, Any]) -> str:
    """The result for a terminal."""
    lines = [f"{result['bench']}: {result['summary']}"]
    for name, arm in result["arms"].items():
        lines.append(f"  {name:<34} " + ", ".join(f"{key} {value:.4g}" for key, value in arm.items()))
    for name, r in result["ratios"].items():
        by_cpu = f"by processor time {r['by processor time']:.3f}"
        lines.append(f"  {name}: {r['median']:.3f} [{r['q1']:.3f}, {r['q3']:.3f}], {by_cpu}; {r['verdict']}")
    return "\n".join(lines)


def _synchronize() -> None:
    torch = sys.modules.get("torch")
    if torch and torch.cuda.is_available():
        torch.cuda.synchronize()


@dataclass(frozen=True)
class Bench:
    """Measure speed and memory against a peer in the same run; exit status 1 where a target is missed."""

    names: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """benches to run; none: list them"""
    rounds: int = 15
    """turns of every arm; medians over them are compared"""
    threads: int = 0
    """CPU threads of every arm (0: torch's own number)"""
    profile: str = "small"
    """whose network is measured: smoke, small or paper"""
    keep: bool = False
    """write figures/bench/<name>.json too, the copy that is committed"""
    memory: bool = True
    """measure each arm's peak memory in a process of its own"""

    def run(self) -> int:
        import torch

        if self.rounds < 1 or self.threads < 0:
            raise ReproError(f"bench needs --rounds >= 1 and --threads >= 0: got {self.rounds} and {self.threads}")
        if not self.names:
            for bench in benches().values():
                print(f"{bench.name:<16} {bench.summary}")
            return 0
        chosen: Sequence[Benchmark] = [find(name) for name in self.names]
        missed = 0
        for bench in chosen:
            result = measure(bench, self.profile, self.rounds, self.threads or torch.get_num_threads(), self.memory)
            text = json.dumps(result, indent=2) + "\n"
            folders = [paths.runs() / "bench"] + ([paths.figures() / "bench"] if self.keep else [])
            for folder in folders:
                write_text(folder / f"{bench.name}.json", text)
            print(told(result))
            missed += any(r["verdict"].startswith("MISSED") for r in result["ratios"].values())
        return 1 if missed else 0
