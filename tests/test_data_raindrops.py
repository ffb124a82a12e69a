"""Raindrops as lenses: what one planted drop shows, where nothing is touched, how much is covered."""

from __future__ import annotations

import math

import pytest
import torch

from repro.data import raindrops
from repro.data.raindrops import COVERAGE, Drops, draw_drops, drop_field, rain
from repro.engine.rng import KeyedNoise
from repro.errors import ReproError

SIDE = 64
AT = torch.arange(SIDE) + 0.5  # centres of the pixels
RAMP = (0.1 + 0.8 * AT / SIDE).expand(1, 3, SIDE, SIDE)  # brighter to the right
PICTURES = KeyedNoise(0, range(4), "test/pictures").uniform((3, 48, 40))
ALL = ("x", "y", "radius", "power", "soft", "shade", "glint", "wobble", "phase")


def drops(*each: dict, size: int = 1) -> Drops:
    """Round, clear, sharp drops where nothing else is said; every sample of the batch has the same."""
    usual = {"x": 32.0, "y": 32.0, "radius": 10.0, "power": 2.0, "soft": 1.0, "shade": 0.0, "glint": 0.0}
    table = {key: torch.tensor([[{**usual, **one}[key] for one in each]] * size) for key in usual}
    flat = torch.zeros(size, len(each), 3)
    return Drops(**table, wobble=flat, phase=flat)


def drawn(ids, size=(48, 40), coverage=None, seed=0) -> Drops:
    return draw_drops(KeyedNoise(seed, ids, "drops"), size, coverage)


def area(found: Drops, size: tuple[int, int]) -> torch.Tensor:
    """(B,) share of the pane of round drops of these radii."""
    return (math.pi * found.radius**2).sum(dim=1) / (size[0] * size[1])


# -- one drop ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("transposed", [False, True])
def test_a_drop_shows_the_scene_inverted_and_wider(transposed):
    """On a ramp the view at distance d from the centre is the ramp at -power (1 + 1.5 (d / r)^4) d."""
    scene = RAMP.transpose(2, 3) if transposed else RAMP
    seen = rain(scene, drops({}))[0]
    line = (seen.transpose(2, 3) if transposed else seen)[0, 0, 31]  # half a pixel above the centre
    d = AT - 32
    inside = d.abs() <= 4
    q = torch.hypot(d, torch.tensor(0.5) * 0.9) / 10  # a drop is a little taller than wide
    if transposed:
        q = torch.hypot(d * 0.9, torch.tensor(0.5)) / 10
    source = 32 - 2 * (1 + 1.5 * q**4) * d
    wanted = 0.1 + 0.8 * source / SIDE
    torch.testing.assert_close(line[inside], wanted[inside], rtol=0, atol=1e-5)
    assert (line.diff()[28:35] < 0).all() and (scene[0, 0].amax(0).diff() >= 0).all()


def test_outside_the_mask_nothing_is_touched():
    scene = PICTURES[:1]
    seen, mask = rain(scene, drops({"x": 20.0, "y": 24.0, "radius": 6.0, "soft": 2.0, "glint": 0.5, "shade": 0.6}))
    assert mask.shape == (1, 1, 48, 40) and mask.min() == 0 and mask.max() == 1
    clear = (mask == 0).expand_as(scene)
    assert torch.equal(seen[clear], scene[clear])
    changed = (seen != scene).any(dim=1)
    assert changed[0, 24, 20] and changed.float().mean() < 0.2
    rows = torch.arange(48)[:, None] + 0.5 - 24
    distance = torch.hypot(torch.arange(40)[None] + 0.5 - 20, rows * 0.9)
    assert (mask[0, 0][distance < 4.9] == 1).all() and (mask[0, 0][distance > 7.1] == 0).all()
    assert 0.45 < mask[0, 0][(distance - 6).abs() < 0.1].mean() < 0.55, "the outline is the middle of the blur"


def test_the_outline_is_as_soft_as_asked():
    widths = []
    for soft in (1.0, 3.0):
        mask = rain(RAMP, drops({"soft": soft}))[1]
        widths.append(((mask > 0) & (mask < 1)).sum().item() / (2 * math.pi * 10 / 0.95))
    assert widths[0] == pytest.approx(1, abs=0.25) and widths[1] == pytest.approx(3, abs=0.35)


def test_rim_and_glint():
    white, black = torch.ones(1, 3, SIDE, SIDE), torch.zeros(1, 3, SIDE, SIDE)
    seen = rain(white, drops({"shade": 0.6}))[0][0, 0]
    assert seen[32, 32] == pytest.approx(1) and 0.4 <= seen[32, 41] < 0.6 and seen[32, 60] == 1
    line = seen[32, 32:42]
    assert (line.diff() <= 1e-6).all(), "the rim is the darkest"
    seen = rain(black, drops({"glint": 0.5}))[0][0]
    top = seen[0].argmax().item()
    assert (top // SIDE, top % SIDE) in {(27, 35), (28, 35)}, "up and to the right of the centre"
    assert 0.4 < seen.max() <= 0.5 and torch.equal(seen[0], seen[2])


def test_where_drops_overlap_the_deeper_one_wins():
    left, right = {"x": 28.0}, {"x": 40.0, "power": 3.0}
    index, q = drop_field(drops(left, right), (SIDE, SIDE))
    assert index[0, 32, 30] == 0 and index[0, 32, 38] == 1 and (q[0] >= 0).all()
    assert index[0, 32, 33] == 0 and index[0, 32, 34] == 1  # halfway between equal drops
    both, swapped = rain(RAMP, drops(left, right))[0], rain(RAMP, drops(right, left))[0]
    assert torch.equal(both, swapped)


def test_an_empty_slot_is_no_drop():
    none, one = {"radius": 0.0}, {"x": 20.0}
    seen, mask = rain(RAMP, drops(none))
    assert torch.equal(seen, RAMP) and not mask.any()
    for padded in (drops(none, one), drops(one, none)):
        for found, wanted in zip(rain(RAMP, padded), rain(RAMP, drops(one)), strict=True):
            assert torch.equal(found, wanted)


@pytest.mark.parametrize("x", [0.0, 0.5, 63.5, 64.0, 90.0])
def test_drops_on_the_edge_are_finite(x):
    """The pixel at a drop's very centre, and views far beyond the picture."""
    for y in (0.0, 20.5, 64.0):
        seen, mask = rain(RAMP, drops({"x": x, "y": y, "power": 4.5}, {"x": 500.0, "radius": 2.5}))
        assert seen.isfinite().all() and mask.isfinite().all() and seen.min() >= 0 and seen.max() <= 1


# -- drawn ones --------------------------------------------------------------------------------------------------------


def test_drawn_drops_are_in_range_and_leave_the_rest():
    seen, mask = rain(PICTURES, drawn(range(4)))
    assert seen.isfinite().all() and seen.min() >= 0 and seen.max() <= 1
    assert mask.isfinite().all() and mask.min() == 0 and mask.max() == 1
    clear = (mask == 0).expand_as(seen)
    assert torch.equal(seen[clear], PICTURES[clear]) and 0.3 < clear.float().mean() < 0.95


def test_no_coverage_is_the_identity():
    seen, mask = rain(PICTURES, drawn(range(4), coverage=0.0))
    assert torch.equal(seen, PICTURES) and not mask.any()


@pytest.mark.parametrize("size", [(32, 32), (64, 96)])
@pytest.mark.parametrize("coverage", [0.05, 0.2])
def test_the_drops_area_is_what_was_asked_on_average(size, coverage):
    """Less than one drop a pane in the smallest case: it then is there with the right probability."""
    found = area(drawn(range(20_000 if size == (32, 32) else 4_000), size, coverage), size)
    assert found.mean().item() == pytest.approx(coverage, rel=0.05)


def test_the_mask_covers_about_as_much():
    size, coverage = (96, 96), 0.2
    masks = rain(torch.zeros(40, 3, *size), drawn(range(40), size, coverage))[1]
    overlapped = 1 - math.exp(-coverage / 0.9)  # a little taller than wide; some lie over one another
    inner = masks[..., 12:-12, 12:-12].mean().item()
    assert inner == pytest.approx(overlapped, rel=0.1)
    assert 0.7 * inner < masks.mean().item() < inner, "drops whose centre lies off the pane do not reach into it"


def test_the_coverage_is_drawn_where_none_is_asked():
    found = area(drawn(range(6_000), (64, 64)), (64, 64))
    assert found.mean().item() == pytest.approx(sum(COVERAGE) / 2, rel=0.03)
    by_share = KeyedNoise(0, range(6_000), "drops").uniform(())
    low, high = found[by_share < 0.2].mean().item(), found[by_share > 0.8].mean().item()
    assert low == pytest.approx(COVERAGE[0] + 0.1 * (COVERAGE[1] - COVERAGE[0]), rel=0.06)
    assert high == pytest.approx(COVERAGE[0] + 0.9 * (COVERAGE[1] - COVERAGE[0]), rel=0.06)


def test_radii_are_log_uniform_and_centres_anywhere():
    found = drawn(range(2_000), (64, 64), 0.3)
    there = found.radius > 0
    place = (found.radius[there] / raindrops.RADIUS[0]).log() / math.log(raindrops.RADIUS[1] / raindrops.RADIUS[0])
    assert place.mean().item() == pytest.approx(0.5, abs=0.02) and place.min() >= 0 and place.max() <= 1
    for centre in (found.x[there] / 64, found.y[there] / 64):
        assert centre.mean().item() == pytest.approx(0.5, abs=0.02) and centre.max() < 1


def test_more_coverage_adds_drops_and_keeps_those_there():
    few, many = drawn(range(8), coverage=0.1), drawn(range(8), coverage=0.3)
    assert many.count > few.count
    for name in ALL:
        a, b = getattr(few, name), getattr(many, name)[:, : few.count]
        assert torch.equal(a[few.radius > 0], b[few.radius > 0]), name
    assert ((many.radius > 0).sum(1) > (few.radius > 0).sum(1)).all()


def test_a_sample_does_not_know_its_batch():
    ids = ["a", "b", "c", "d"]
    seen, mask = rain(PICTURES, drawn(ids))
    for i, name in enumerate(ids):
        one, its_mask = rain(PICTURES[i : i + 1], drawn([name]))
        assert torch.equal(one[0], seen[i]) and torch.equal(its_mask[0], mask[i])
    assert torch.equal(rain(PICTURES.flip(0), drawn(ids[::-1]))[0], seen.flip(0))
    assert not torch.equal(mask[0], mask[1])
    assert not torch.equal(rain(PICTURES, drawn(ids, seed=1))[1], mask)


def test_impossible_input_is_refused():
    for coverage in (-0.1, 0.7, float("nan")):
        with pytest.raises(ReproError, match=r"coverage must lie in \[0, 0.6\]: got"):
            drawn([0], coverage=coverage)
    for wrong in (PICTURES[:3], PICTURES[:, :1], PICTURES[0]):
        with pytest.raises(ReproError, match=r"pictures of shape \(4, 3, H, W\) are needed"):
            rain(wrong, drawn(range(4)))
