"""Notebook 02's measures: strengths of their own effect, clusters by the book, crops in their place."""

import re
from dataclasses import replace

import pytest
import torch
from tiny_editing import tiny_autoencoder

from repro.editing.effects.grain import gaussian_grain, grain_variance
from repro.editing.effects.sharpness import motion_blur, unsharp_mask
from repro.editing.study import probes, strength
from repro.editing.study.benchmark import TINY
from repro.editing.study.experiments import ABLATIONS, name_of
from repro.editing.study.measure import (
    CONTRAST,
    CRISP,
    DRIFT,
    EXCESS,
    GAP,
    HOLE,
    KID,
    L1,
    MEANS,
    PROTOCOLS,
    _statistics,
    by_photo,
    crops,
    floored,
    kept,
    scored,
    source_of,
)
from repro.engine import grid
from repro.engine.claims import Selector, load_ledger

BENCH = replace(TINY, crop=(32, 64, 64), sides=((96,), (96,), (96,)), each=(2, 2, 3), limit=2)


@pytest.fixture(scope="module")
def data():
    return crops(BENCH, 2)


def test_every_side_of_a_claim_is_a_cell_of_the_grid_and_ablations_have_their_own_reference():
    """Each selector meets exactly one cell that is measured; no network trained on fewer images against one on all."""
    cells = grid.cells(grid.load("editing"))
    cells += [(re.sub(r"-s0$", "-s*", e), c) for e, c in cells if e.endswith("-s0")]
    short = {name_of(v) for v in ABLATIONS}
    for part in (part for claim in load_ledger("editing") for part in claim.parts):
        sides = [s for s in (part.left, part.right) if isinstance(s, Selector)]
        for s in sides:
            found = {str(c) for e, c in cells if e == s.experiment and s.cell.items() <= c.items()}
            assert len(found) == 1, (part.name, str(s))
        assert len({s.experiment in short for s in sides if not s.experiment.startswith("baseline-")}) == 1, part.name


def test_blur_is_measured_through_grain_and_contrast(data):
    clear = [motion_blur(data.sharp, b, 0, data.ids, longest=12) for b in (0.0, 0.3, 0.6, 1.0)]
    grainy = [gaussian_grain(x, 0.1, seed=1, ids=data.ids) for x in clear]
    alone, beside = (torch.stack([strength.blur(x, data.sharp) for x in images]) for images in (clear, grainy))
    assert (
        (alone.diff(dim=0) > 0).all() and (beside.diff(dim=0) > 0).all() and (alone[2] - beside[2]).abs().max() < 0.25
    )
    assert torch.allclose(alone[0], torch.zeros(4), atol=1e-6)
    torch.testing.assert_close(strength.blur(3 * (clear[2] - 0.4) + 0.2, data.sharp), alone[2])
    sharper = torch.stack([strength.sharpen(unsharp_mask(data.sharp, a), data.sharp) for a in (1.0, 2.0, 3.0)])
    assert (sharper[0] > 0).all() and (sharper.diff(dim=0) > 0).all()


def test_grain_grows_with_the_radius_and_is_measured_in_flat_places():
    flat = torch.full((2, 3, 64, 64), 0.5)
    edge = flat.clone()
    edge[..., 32:] = 0.9  # an edge is not grain
    assert strength.grain(edge, edge).max() < 1e-3
    noise = 0.02 * torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(strength.grain(flat + noise, flat), strength.grain(edge + noise, edge), rtol=0.2)
    grains = [gaussian_grain(flat, r, seed=0, ids=[0, 1]) for r in (0.01, 0.025, 0.05, 0.075, 0.1)]
    found = torch.stack([strength.grain(x, flat) for x in grains])
    assert (found.diff(dim=0) > 0).all()
    law = 255 * float(grain_variance(0.5, 0.1)) ** 0.5  # most of it, and far less of as much white noise
    assert (found[-1] > 0.45 * law).all() and strength.grain(flat + noise, flat).max() < 0.35 * 5.1


def test_scores_of_doing_nothing_of_the_targets_and_of_the_floor(data):
    found, pair = scored(data, 2, ("inpaint",), source_of, kid=False), data.edit("inpaint")
    inside = ((pair.source - pair.target).abs() * data.hole).sum(dim=(1, 2, 3)) / (3 * data.hole.sum(dim=(1, 2, 3)))
    assert found[HOLE] == pytest.approx(by_photo(inside, 2), rel=1e-4)
    assert found[EXCESS] == pytest.approx(found[HOLE], rel=1e-4)  # outside the hole nothing is wrong
    assert found[L1] == pytest.approx(by_photo((inside * data.hole.mean(dim=(1, 2, 3))), 2), rel=1e-4)
    assert all(len(found[p]) == 2 for p in PROTOCOLS) and KID not in found
    perfect = scored(data, 2, ("blur", "inpaint"), lambda part, tasks: part.edit(*tasks).target, kid=False)
    assert max(perfect[GAP["blur"]]) < 1e-6 and max(map(abs, perfect[CRISP])) < 1e-6
    assert max(map(abs, perfect[EXCESS])) < 1e-7
    lazy = scored(data, 2, ("blur",), source_of, kid=False)
    target = strength.blur(data.edit("blur").target, data.sharp)
    assert lazy[GAP["blur"]] == pytest.approx(by_photo(target, 2), rel=1e-4)
    assert min(lazy[CRISP]) > 0  # the sharp source is crisper than the blurred target
    image = data.edit("colour").target
    found = _statistics(0.5 * image + 0.1, image)
    assert found[MEANS] == pytest.approx((0.5 * image - 0.1).mean(dim=(2, 3)).abs().mean(dim=1).tolist(), rel=1e-4)
    assert found[CONTRAST] == pytest.approx([0.5] * 4, rel=1e-4)
    autoencoder = tiny_autoencoder()
    made, one = (floored(autoencoder, False, part, ("blur",)) for part in (data, data.at([2])))
    assert made.shape == data.sharp.shape and torch.allclose(made[2:3], one, atol=1e-5)


def test_silhouette_is_rousseeuws():
    points = torch.tensor([[0.0], [1.0], [10.0], [12.0]])
    group = torch.tensor([0, 0, 1, 1])
    # by hand: a = 1, b = mean(10, 12) = 11; a = 1, b = 10; a = 2, b = 9.5; a = 2, b = 11.5
    wanted = [1 - 1 / 11, 1 - 1 / 10, 1 - 2 / 9.5, 1 - 2 / 11.5]
    assert probes.silhouette(points, group).tolist() == pytest.approx(wanted)
    assert probes.silhouette(points, torch.tensor([0, 1, 1, 1]))[0] == 0  # alone in its group
    mixed = probes.silhouette(points, torch.tensor([0, 1, 0, 1]))
    assert mixed.mean() < 0


def test_tsne_keeps_clusters_together_and_is_deterministic():
    generator = torch.Generator().manual_seed(0)
    centres = 10 * torch.randn(4, 8, generator=generator)
    group = torch.arange(4).repeat_interleave(12)
    points = centres[group] + torch.randn(48, 8, generator=generator)
    found = probes.tsne(points, perplexity=8, steps=300)
    assert torch.isfinite(found).all() and torch.equal(found, probes.tsne(points, perplexity=8, steps=300))
    nearest = (torch.cdist(found, found) + 1e9 * torch.eye(48)).argmin(dim=1)
    assert (group[nearest] == group).float().mean() > 0.95


def test_rank_correlation_is_spearmans_and_a_dead_slider_scores_nothing():
    from scipy.stats import spearmanr

    table = torch.tensor(
        [[0.0, 3.0, 0.1, 0.5], [0.2, 2.0, 0.1, 0.5], [0.5, 1.0, 0.3, 0.5 + 1e-5], [0.4, 0.0, 0.2, 0.5]]
    )
    found = strength.rank_correlation(table)
    still = torch.linspace(0.0048, 0.0052, 5)[:, None]  # rounding would set them apart
    assert strength.rank_correlation(still).item() == 0
    for column in range(3):
        assert found[column].item() == pytest.approx(spearmanr(range(4), table[:, column]).statistic)
    assert found[3] == 0  # rounding errors in rising order are no effect


def test_what_a_composite_keeps(data):
    first = data.at([0, 2])
    perfect = kept(first, ("blur", "grain", "colour"), lambda part, tasks: part.edit(*tasks).target)
    assert set(perfect) == {DRIFT["blur"], DRIFT["grain"], DRIFT["colour"]}
    assert all(len(v) == 2 and max(v) < 1e-4 for v in perfect.values())

    def alone(part, tasks):  # blurs, unless something else is asked too
        return part.edit("blur").target if tuple(tasks) == ("blur",) else part.sharp

    lost = kept(first, ("blur", "inpaint"), alone)
    wanted = strength.blur(first.edit("blur").target, first.sharp).tolist()
    assert lost == {DRIFT["blur"]: pytest.approx(wanted, abs=1e-5)}
