"""The benchmark: who is in which split, by what laws it draws, what it must never change into, its composites."""

from __future__ import annotations

import hashlib
import math
import re
from dataclasses import replace

import pytest
import torch
from tiny_editing import tiny_autoencoder

from repro.data import pack
from repro.editing.effects.blur import motion_blur
from repro.editing.effects.colour import colour_transfer
from repro.editing.effects.compose import Recipe, compose
from repro.editing.effects.grain import RADII, SIGMA_FILTER
from repro.editing.effects.grain_law import gaussian_grain, grain_variance, rendered_covariance
from repro.editing.study import bank
from repro.editing.study.benchmark import (
    BENCH,
    COMPOSITES,
    SINGLES,
    SPLITS,
    TINY,
    VERSION,
    crop_ids,
    levels,
    parameters,
    reference_rows,
    split,
)
from repro.editing.vector import SCALARS, EditingVector

# Version 1 of the small profile's test split. Where one of these changes, the benchmark is another one: VERSION goes up
# with them. What is asked of which crop is the same on every machine, hence a hash; crops and holes are pinned by a
# moment of each, in units that rounding on another kind of processor (measured: 74 of 5.3 million values, by one
# level) does not reach, while a crop that is moved by a pixel or mirrored changes by hundreds.
PINNED_VERSION = 1
DEFINITION = "d4bc410b8148595d583ad3a5a65eb3abdc107517c68272099c881d3ec2fe6a74"
SHARP = [
    75729, 94896, 87490, 85159, 96591, 100049, 100225, 97233, 129947, 139014, 118944, 129324, 116143, 88052,
    114794, 114268, 119304, 153480, 170838, 143797, 119842, 124409, 114459, 108632, 94373, 92012, 86009, 91136,
    84016, 94384, 154363, 104104, 60464, 127169, 127820, 119684, 128078, 93020, 95567, 107292, 102531, 93774,
    100620, 134523, 98827, 90250, 97169, 81796, 89864, 81392, 112834, 100044, 85743, 207557, 88913, 81178, 117394,
    165065, 126215, 87647, 163130, 161830, 156237, 154065, 136773, 120344, 127764, 98952, 138923, 128119, 117595,
    122570, 124839, 136474, 125543, 118816, 153421, 145950, 137878, 122053, 135213, 160644, 113967, 154810,
    106589, 88207, 108795, 92063, 140862, 136702, 144385, 140471, 142438, 127690, 102635, 137174, 117318, 105262,
    152842, 101028, 63114, 65386, 101318, 83432, 84920, 73099, 138470, 129177,
]  # fmt: skip
HOLES = [
    4365, 3735, 13119, 2954, 692, 6421, 6060, 1704, 2708, 5804, 3630, 7172, 4228, 2393, 7274, 5247, 3541, 844,
    8720, 6979, 3973, 3114, 6676, 1634, 9301, 3122, 10587, 2003, 2645, 12163, 4132, 8350, 5120, 836, 1344, 4191,
    5574, 623, 4215, 5171, 3232, 3919, 2672, 7424, 1856, 5085, 2330, 5414, 4110, 4010, 8096, 3159, 4373, 2864,
    2286, 7438, 795, 4804, 4945, 8457, 2870, 7782, 2902, 3408, 3259, 3866, 4394, 3338, 7040, 772, 975, 4621, 2400,
    6805, 7875, 5770, 5442, 357, 7506, 2321, 6778, 7755, 2675, 9942, 3435, 5354, 4530, 5516, 3387, 1192, 4366,
    1303, 3716, 7509, 6562, 2356, 6396, 8774, 2718, 2571, 1834, 2010, 6117, 2920, 2276, 7245, 573, 1350,
]  # fmt: skip


@pytest.fixture(scope="module")
def real():
    return split("test")


# -- what it is -------------------------------------------------------------------------------------------------------


def moments(pictures: torch.Tensor, unit: float) -> list[float]:
    """One number a picture (N, C, S, S): its values, weighed by where they lie, in units."""
    ramp = torch.arange(pictures.shape[-1], dtype=torch.float64)
    return ((pictures.double() * (1 + 2 * ramp[:, None] + ramp)).sum(dim=(1, 2, 3)) / unit).tolist()


def definition(part, version: int) -> str:
    """SHA-256 of what is asked of which crop: the same on every machine."""
    train, lines = crop_ids("train"), []
    rows = reference_rows(part.name, part.ids, len(train), version).tolist()
    for id, v, row in zip(part.ids, part.vectors, rows, strict=True):
        numbers = (v.blur, v.grain, *v.sharpen)
        lines.append(",".join([id, re.sub(r"[^A-Za-z0-9_]", "-", id), *map(repr, numbers), train[row]]))
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def test_it_is_the_pinned_version(real):
    assert VERSION == BENCH.version == PINNED_VERSION
    assert definition(real, BENCH.version) == DEFINITION
    assert moments((real.sharp * 255).round(), 1e4) == pytest.approx(SHARP, abs=1)
    assert moments(real.hole, 100) == pytest.approx(HOLES, abs=1)


def test_the_pin_bites(real):
    """Another version, a crop one pixel aside, a mirrored one: none of them passes."""
    assert definition(real, 2) != DEFINITION
    one = real.sharp[:1] * 255
    for other in (one.roll(1, dims=3), one.roll(1, dims=2), one.flip(3)):
        assert abs(moments(other, 1e4)[0] - SHARP[0]) > 3


def test_a_split_is_the_same_every_time_whatever_else_is_in_it():
    whole = split("validation", TINY)
    again = split.__wrapped__("validation", TINY)
    assert whole.ids == again.ids and whole.vectors == again.vectors
    assert all(torch.equal(getattr(whole, k), getattr(again, k)) for k in ("sharp", "reference", "hole"))
    alone = split("validation", replace(TINY, limit=1))
    assert alone.ids == whole.ids[:1] and alone.vectors == whole.vectors[:1]
    assert torch.equal(alone.sharp, whole.sharp[:1]) and torch.equal(alone.hole, whole.hole[:1])
    assert torch.equal(whole.edit("blur", "grain").target[1:], whole.at([1]).edit("blur", "grain").target)


def test_ids_are_unique_and_no_subject_of_test_or_validation_is_in_train(real):
    ids = {name: crop_ids(name) for name in SPLITS}
    assert all(crop_ids(name, TINY) == split(name, TINY).ids for name in SPLITS)
    every = [id for name in SPLITS for id in ids[name]]
    assert len(set(every)) == len(every) and len({re.sub(r"[^A-Za-z0-9_]", "-", id) for id in every}) == len(every)
    assert ids["test"] == real.ids
    subjects = {name: {pack.picture(id.split("@")[0]).subject for id in ids[name]} for name in SPLITS}
    assert [len(subjects[name]) > 5 for name in SPLITS] == [True] * 3
    assert not subjects["test"] & subjects["train"] and not subjects["validation"] & subjects["train"]
    assert not subjects["test"] & subjects["validation"]


@pytest.mark.parametrize("name", SPLITS)
def test_references_are_crops_of_the_training_split_and_never_the_crop_itself(name):
    whole, train = split(name, TINY), split("train", TINY)  # all crops of TINY have one size
    at = reference_rows(name, whole.ids, len(train)).tolist()
    assert torch.equal(whole.reference, train.sharp[at])
    assert all(train.ids[row] != id for row, id in zip(at, whole.ids, strict=True))


def test_references_differ_from_crop_to_crop(real):
    rows = reference_rows("test", real.ids, len(crop_ids("train"))).tolist()
    assert len(set(rows)) > 0.9 * len(rows)


def test_parameters_follow_their_laws():
    many = parameters([f"crop {i}" for i in range(4000)])
    assert all(v.active == SINGLES for v in many)
    beta, sigma = torch.tensor([v.blur for v in many]), torch.tensor([v.grain for v in many], dtype=torch.float64)
    amount, threshold = torch.tensor([v.sharpen for v in many]).T
    for values, entry in zip((beta, sigma, amount, threshold), SCALARS, strict=True):
        assert entry.low <= values.min() and values.max() <= entry.high, entry.name
    four = 4 / math.sqrt(len(many))  # standard errors
    assert abs(beta.mean() - 0.5) < four / math.sqrt(12) and abs(beta.var() - 1 / 12) < four * math.sqrt(1 / 180)
    assert abs(amount.mean() - 2) < four * 2 / math.sqrt(12)
    assert abs(threshold.mean() - 0.1 / 3) < four * 0.1 * math.sqrt(4 / 45)  # 0.1 u^2
    assert abs(threshold.median() - 0.025) < 0.002
    for radius in RADII:
        assert abs((sigma == radius).double().mean() - 0.2) < four * 0.4
    together = torch.stack([beta.double(), sigma, amount.double(), threshold.double()])
    assert (torch.corrcoef(together) - torch.eye(4)).abs().max() < four
    assert parameters(["crop 7"]) == [many[7]] and parameters(["crop 7"], version=2) != [many[7]]


def test_holes_have_the_published_size(real):
    fraction = real.hole.mean(dim=(1, 2, 3))
    assert set(real.hole.unique().tolist()) == {0.0, 1.0}
    assert abs(fraction.mean() - 0.15) < 4 * fraction.std() / math.sqrt(len(real)) and fraction.max() < 0.6


def test_single_edits_and_composites_ask_for_the_same(real):
    for tasks in COMPOSITES:
        for vector in real.vectors:
            both = vector.only(*tasks)
            assert both.active == tasks
            for task in tasks:
                assert getattr(both, task) == getattr(vector.only(task), task) == getattr(vector, task)


def test_a_composite_is_made_of_the_single_edits():
    """The same path, grain, reference and threshold, one after the other."""
    whole, v = split("test", TINY), split("test", TINY).vectors
    blurred = motion_blur(whole.sharp, [x.blur for x in v], VERSION, whole.ids, longest=TINY.recipe.longest)
    assert torch.equal(whole.edit("blur").target, levels(blurred))
    radii = torch.tensor([x.grain for x in v], dtype=torch.float64)
    grained = gaussian_grain(blurred, radii, seed=VERSION, ids=whole.ids, largest=RADII[-1])
    assert torch.equal(whole.edit("blur", "grain").target, levels(grained))
    coloured = colour_transfer(grained, whole.reference)
    assert torch.equal(whole.edit("blur", "grain", "colour").target, levels(coloured))
    assert torch.equal(whole.edit("blur").source, whole.sharp) and torch.equal(
        whole.edit("inpaint").target, whole.sharp
    )


@pytest.mark.parametrize("radius", [0.05, 0.1])
def test_the_grain_field_stands_for_the_film(radius):
    """The same mean, and in a flat region the film's deviation without the noise of its 800 samples."""
    side, u = 32, 0.5
    flat = torch.full((1, 3, side, side), u)
    request = EditingVector(grain=radius)
    film, field = (
        compose(flat, request, seed=VERSION, ids=["flat"], recipe=Recipe(grain=kind)).target.double()
        for kind in ("film", "field")
    )
    independent = 3 * side**2 / (4 * math.pi * SIGMA_FILTER**2)  # of the pixels, which the filter correlates
    exact, with_noise = grain_variance(u, radius).item(), rendered_covariance(u, radius, SIGMA_FILTER, 800)
    error = 4 * math.sqrt(with_noise / independent)
    assert abs(film.mean() - u) < error and abs(field.mean() - u) < error
    assert with_noise > 1.05 * exact
    slack = 4 * math.sqrt(2 / independent)
    film, field = film.var().item(), field.var().item()
    assert field == pytest.approx(exact, rel=slack) and film == pytest.approx(with_noise, rel=slack)
    assert film - (with_noise - exact) == pytest.approx(field, abs=slack * with_noise)


def test_composites_of_the_training_crops_are_the_formulas(tmp_path, monkeypatch):
    """Two effects or more each, drawn anew each round; the latents are those of what `compose` makes of them."""
    monkeypatch.setenv("REPRO_DATA", str(tmp_path))
    autoencoder, whole = tiny_autoencoder(), split("train", TINY)
    held = bank.composites(autoencoder, "0" * 64, TINY)
    count, vectors = len(whole), held["composite vector"]
    assert len(vectors) == len(held["composite"]) == bank.ROUNDS * count
    assert (vectors[:, 4:].sum(dim=1) >= 2).all() and vectors.unique(dim=0).shape[0] > count
    turn, at = 1, [0, count - 1]
    some, rows = whole.at(at), [turn * count + i for i in at]
    asked = [vector_of(row) for row in vectors[rows].tolist()]
    made = compose(
        some.sharp,
        asked,
        seed=TINY.version,
        ids=[f"{id} round {turn}" for id in some.ids],
        reference=some.reference,
        hole=some.hole,
        recipe=TINY.recipe,
    )
    wanted = autoencoder.encode(levels(made.target) * 2 - 1)
    torch.testing.assert_close(held["composite"][rows].float(), wanted, rtol=2e-3, atol=2e-3)
    monkeypatch.setattr(bank, "compose", None)  # read, not made again
    assert torch.equal(bank.composites(autoencoder, "0" * 64, TINY)["composite"], held["composite"])


def vector_of(row: list[float]) -> EditingVector:
    beta, sigma, amount, threshold, *on = row
    blur, grain, colour, inpaint, sharpen = map(bool, on)
    return EditingVector(
        beta if blur else None,
        round(sigma, 6) if grain else None,
        colour,
        inpaint,
        (amount, threshold) if sharpen else None,
    )
