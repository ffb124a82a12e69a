"""Keyed random numbers: a sample's draw is its own, and it is as random as it should be."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from tiny import refused

from repro.engine.rng import KeyedNoise

IDS = st.lists(st.one_of(st.integers(-(2**63), 2**63 - 1), st.text(max_size=8)), min_size=1, max_size=6)


@settings(max_examples=40)
@given(ids=IDS, seed=st.integers(0, 2**64 - 1), step=st.integers(0, 2**40), data=st.data())
def test_a_draw_depends_on_seed_id_purpose_and_step_alone(ids, seed, step, data):
    order = data.draw(st.permutations(range(len(ids))))
    together = KeyedNoise(seed, ids, "p")
    shuffled = KeyedNoise(seed, [ids[i] for i in order], "p")
    for name, args in (("normal", ((3, 5),)), ("uniform", ((3, 5),)), ("integers", (0, 1000, (7,)))):
        found = getattr(together, name)(*args, step=step)
        together.normal((2,), step=step + 1)  # earlier draws leave no trace
        assert torch.equal(found[order], getattr(shuffled, name)(*args, step=step))
        alone = [getattr(KeyedNoise(seed, [i], "p"), name)(*args, step=step) for i in ids]
        assert torch.equal(found, torch.cat(alone))


def test_known_numbers_never_change():
    """Another answer here invalidates every training state, sample and record."""
    noise = KeyedNoise(0, [0, "fashion 7"], "noise")
    assert noise.keys[0] == 5490290208961987118
    assert noise.integers(0, 2**32, (2,), step=3).tolist() == [[2371960588, 892349895], [1322791829, 1228065746]]
    normals = torch.tensor([[-2.760872, -0.339498], [-1.890217, 1.816873]])
    assert torch.allclose(noise.normal((2,), step=3), normals, rtol=1e-5)


def test_normals_are_normal_and_uniforms_and_integers_uniform():
    x = KeyedNoise(0, range(64), "noise").normal((4096,)).double()
    assert stats.kstest(x.flatten()[:50_000].numpy(), "norm").pvalue > 1e-3
    assert abs((x**4).mean() - 3) < 4 * math.sqrt(96 / x.numel()) and x.abs().max() < 6.8
    noise = KeyedNoise(3, range(50), "u")
    u = noise.uniform((2000,))
    assert u.min() >= 0 and u.max() < 1 and stats.kstest(u.flatten().numpy(), "uniform").pvalue > 1e-3
    k = noise.integers(-3, 7, (2000,), step=1)
    assert k.min() == -3 and k.max() == 6
    assert stats.chisquare(torch.bincount((k + 3).flatten()).numpy()).pvalue > 1e-3


def test_neighbours_are_not_correlated():
    """Of ids, steps, seeds and purposes that differ by one, and of an image's own neighbouring pixels."""
    n = 100_000

    def draw(seed=0, id=0, purpose="a", step=0):
        return KeyedNoise(seed, [id], purpose).normal((n,), step)[0].double()

    first = draw()
    others = [draw(id=1), draw(step=1), draw(seed=1), draw(purpose="b"), draw(id="0"), draw(seed=1, id=-1)]
    for other in [*others, first.roll(1), first.roll(n // 2)]:
        assert abs((first * other).mean()) < 4.5 / math.sqrt(n)
        assert abs(((first**2 - 1) * (other**2 - 1)).mean()) < 4.5 * 2 / math.sqrt(n)


def test_no_key_twice_and_the_global_generator_is_left_alone():
    before = torch.get_rng_state()
    ids = [*range(200), "0", "1"]
    keys = {key for s in range(8) for p in ("a", "b", "") for key in KeyedNoise(s, ids, p).keys.tolist()}
    assert len(keys) == 8 * 202 * 3
    noise, like = KeyedNoise(0, [1, 2], "p"), torch.zeros(2, 3, 4, dtype=torch.float64)
    assert noise(7, like).dtype == torch.float64 and torch.equal(noise(7, like).float(), noise.normal((3, 4), 7))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.gpu
def test_the_device_does_not_matter():
    here, there = KeyedNoise(0, range(9), "p"), KeyedNoise(0, range(9), "p", "cuda")
    assert torch.equal(here.integers(0, 2**62, (100,)), there.integers(0, 2**62, (100,)).cpu())
    assert torch.equal(here.uniform((100,)), there.uniform((100,)).cpu())
    assert torch.allclose(here.normal((100,)), there.normal((100,)).cpu(), atol=1e-5)


def test_a_seed_that_would_be_another_one_is_refused():
    refused({"64 bits": 2**64, "64 bits.": -(2**63) - 1, "got 1.5": 1.5}, lambda seed: KeyedNoise(seed, [0], "noise"))
