"""The bench of a restoration: its three arms do the same work. Nothing is timed."""

from __future__ import annotations

import pytest
import torch

from repro.engine.bench import find
from repro.errors import ReproError
from repro.rddm import bench
from repro.rddm.config import SMALL, SMOKE
from repro.rddm.experiments import name_of, schedule_of


def passes(network, run) -> int:
    """How often `run` asks the network."""
    calls = []
    hook = network.register_forward_hook(lambda *_: calls.append(1))
    try:
        run()
    finally:
        hook.remove()
    return len(calls)


def test_each_arm_makes_as_many_passes():
    steps, network, I_in = SMOKE.tasks["raindrop"].steps, bench.network_of("smoke"), bench.picture(32)
    assert I_in.shape == (1, 3, 32, 32) and I_in.abs().max() <= 1
    pipe = bench.pipeline("smoke", network)
    assert passes(network, lambda: bench.bare(network, I_in, steps)) == steps == 2
    assert passes(network, lambda: bench.restored("smoke", network, I_in, steps)) == steps
    given = (I_in + 1) / 2
    assert passes(network, lambda: pipe(given, num_inference_steps=steps, output_type="pt")) == steps


def test_the_pipeline_has_the_schedule_that_the_network_learned():
    for profile, config in (("small", SMALL), ("smoke", SMOKE)):
        scheduler = bench.pipeline(profile, bench.network_of(profile)).scheduler
        wanted = schedule_of(config.tasks["raindrop"], "smres")
        assert torch.equal(scheduler.schedule.abar, wanted.abar)
        assert torch.equal(scheduler.schedule.bbar, wanted.bbar)
        assert scheduler.config.objective == "res"


def test_the_shipped_network_is_measured_at_the_published_size(monkeypatch):
    monkeypatch.setattr(bench, "A_BLOCK", 2)
    assert bench.network_of("small").config.objective == "res"
    assert name_of("raindrop", "smres") == "rddm-raindrop-smres-s0"
    assert bench._work("small") == (256, 5) == bench._work("paper")
    arms = find("restoration").make("smoke")
    assert list(arms) == [bench.BARE, bench.OURS, bench.PIPELINE]
    assert [next(start()) for start in arms.values()] == [2.0] * 3


def test_an_unknown_profile_is_refused():
    with pytest.raises(ReproError, match="unknown profile 'huge'"):
        find("restoration").make("huge")
