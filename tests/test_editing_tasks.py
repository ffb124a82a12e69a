"""What the editing networks learn: the pair a label names, the loss on it, and the N-pair loss of the paper's Eq. 3."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from tiny import same_weights
from tiny_editing import tiny_network
from torch import Tensor, nn

from repro.ddpm.schedules import by_name
from repro.editing import labels
from repro.editing.study.config import SMOKE
from repro.editing.tasks import NPAIR_WEIGHT, EditTask, Learning, npair_loss
from repro.editing.vector import NAMES, TASKS, EditingVector, batch
from repro.engine.rng import KeyedNoise
from repro.engine.train import train

FULL = EditingVector(blur=0.3, grain=0.05, colour=True, inpaint=True, sharpen=(2.5, 0.04))
SCHEDULE = by_name(**SMOKE.schedule)
COUNT, SIZE = 12, (8, 8)


def bank() -> dict[str, Tensor]:
    """Latents that tell where they come from."""
    noise = KeyedNoise(0, range(COUNT), "bank")
    names = ("sharp", "blur", "grain", "colour", "sharpen", "masked", "reference")
    held = {name: noise.normal((4, *SIZE), step).half() for step, name in enumerate(names)}
    held["rgb"] = noise.uniform((3, *SIZE), 10).half()
    held["mask"] = noise.uniform((1, *SIZE), 11).half() + 0.1
    held["vector"] = batch([FULL] * COUNT)
    return held


def shown_composites(rounds: int = 2) -> dict[str, Tensor]:
    """Composites of those crops: of crop i the i-th five bits, counted from its round, as labels."""
    rows = torch.arange(rounds * COUNT)
    on = torch.stack([(rows + 3) // 2**i % 2 for i in range(5)], dim=1)
    vectors = [FULL.only(*(t for t, yes in zip(TASKS, row, strict=True) if yes)) for row in on.tolist()]
    latents = KeyedNoise(1, rows.tolist(), "composites").normal((4, *SIZE)).half()
    return {"composite": latents, "composite vector": batch(vectors)}


HELD = {**bank(), **shown_composites()}


def noises(ids):
    return lambda purpose: KeyedNoise(3, list(ids), purpose)


def task(learning: Learning | None = None, **more) -> EditTask:
    return EditTask(HELD, SCHEDULE, learning or Learning(), **more)


class Recorder(nn.Module):
    """Answers `answer` and keeps what it was shown."""

    def __init__(self, answer: float = 0.25) -> None:
        super().__init__()
        self.answer, self.seen = answer, {}

    def forward(self, sample, timestep, **shown):
        self.seen = {"sample": sample, "timestep": timestep, **shown}
        return SimpleNamespace(sample=torch.full_like(sample, self.answer))


# -- what is shown ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("label", range(labels.COUNT))
@pytest.mark.parametrize(("latent", "mask"), [(False, False), (True, True)])
def test_whatever_belongs_to_another_task_is_zero(label, latent, mask):
    at = torch.tensor([3, 7])
    z_B, shown = task(latent_reference=latent, mask=mask).inputs(at, torch.full((2,), label))
    name = TASKS[label - 1] if label else None
    target = name if name in ("blur", "grain", "colour", "sharpen") else "sharp"
    assert torch.equal(z_B, HELD[target][at].float())
    assert torch.equal(shown["source"], HELD["masked" if name == "inpaint" else "sharp"][at].float())
    reference = HELD["reference" if latent else "rgb"][at].float()
    assert torch.equal(shown["reference"], reference * (name == "colour"))
    assert torch.equal(shown["vector"], batch([FULL.only(*([name] if name else []))] * 2))
    assert ("mask" in shown) == mask
    if mask:
        assert torch.equal(shown["mask"], HELD["mask"][at].float() * (name == "inpaint"))


def test_labels_of_one_batch_are_each_samples_own():
    at, label = torch.arange(6), torch.arange(6)
    z_B, shown = task(mask=True).inputs(at, label)
    for i in range(6):
        alone = task(mask=True).inputs(at[i : i + 1], label[i : i + 1])
        assert torch.equal(z_B[i : i + 1], alone[0])
        assert all(torch.equal(shown[name][i : i + 1], alone[1][name]) for name in shown)


def test_a_single_task_network_sees_its_task_alone():
    for value, name in enumerate(TASKS, start=1):
        assert task(Learning(only=name)).label(noises(range(9)), 9).tolist() == [value] * 9
    drawn = task().label(noises(range(600)), 600)
    assert torch.bincount(drawn, minlength=6).min() > 60


# -- the loss ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", ["l1", "l2"])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_the_loss_is_the_papers(norm, prediction):
    """Eq. 2 by hand: |network(z_t) - wanted|^p, z_t = a z_0 + s eps, the norm a mean over each sample."""
    one, ids = task(Learning(norm=norm, prediction=prediction)), torch.arange(COUNT)
    model = Recorder()
    found = one.loss(model, ids, noises(range(COUNT)))
    label, t = labels.draw(noises(range(COUNT)), COUNT), KeyedNoise(3, list(range(COUNT)), "time").integers(0, 1000)
    eps = KeyedNoise(3, list(range(COUNT)), "noise").normal((4, *SIZE))
    z_B, shown = one.inputs(ids, label)
    alpha_bar = SCHEDULE.alpha_bar[t].float()[:, None, None, None]
    a, s = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
    wanted = eps if prediction == "epsilon" else a * eps - s * z_B
    error = 0.25 - wanted
    by_hand = (error.abs() if norm == "l1" else error**2).mean(dim=(1, 2, 3))
    torch.testing.assert_close(found, by_hand)
    torch.testing.assert_close(model.seen["sample"], a * z_B + s * eps)
    assert torch.equal(model.seen["timestep"], t)
    assert all(torch.equal(model.seen[name], value) for name, value in shown.items())
    assert one.names(ids[:2]) == ["crop 0", "crop 1"] and one.size == COUNT


def test_times_are_drawn_evenly_or_more_of_them_low():
    """A share of them among the lowest fifth, the others where they were."""
    at, visits = torch.arange(4000) % COUNT, range(4000)
    even, low = (task(Learning(low=share)).draw(at, noises(visits))[2] for share in (0.0, 0.25))
    assert (even < 200).float().mean().item() == pytest.approx(0.2, abs=0.03)
    assert (low < 200).float().mean().item() == pytest.approx(0.25 + 0.75 * 0.2, abs=0.03)
    moved = low != even
    assert (low[moved] == even[moved] % 200).all() and moved.float().mean().item() == pytest.approx(0.2, abs=0.03)
    assert "low" not in task().settings and task(Learning(low=0.25)).settings["low"] == 0.25


@pytest.mark.parametrize("latent", [False, True])
def test_a_share_of_the_visits_shows_a_composite(latent):
    visits = torch.arange(600)
    at = visits % COUNT
    single, both = (task(Learning(composites=p), mask=True, latent_reference=latent) for p in (0.0, 0.5))
    (_, shown, *_), (_, more, *_) = (each.draw(at, noises(visits)) for each in (single, both))
    moved = (more["vector"] != shown["vector"]).any(dim=1)
    assert 0.42 < moved.float().mean() < 0.55  # a composite may be of one crop's single edit here
    same = [torch.equal(more[k][~moved], shown[k][~moved]) for k in shown]
    assert all(same) and "composites" not in single.settings and both.settings["composites"] == 0.5
    for i in moved.nonzero().flatten().tolist()[:40]:
        crop, vector = int(at[i]), more["vector"][i]
        assert any(torch.equal(vector, HELD["composite vector"][crop + COUNT * r]) for r in (0, 1))
        hole, colour = (bool(vector[NAMES.index(name)]) for name in ("inpaint", "colour"))
        assert torch.equal(more["source"][i], HELD["masked" if hole else "sharp"][crop].float())
        assert torch.equal(more["mask"][i], HELD["mask"][crop].float() * hole)
        assert torch.equal(more["reference"][i], HELD["reference" if latent else "rgb"][crop].float() * colour)


def test_a_composites_target_is_that_of_its_round():
    at, learning = torch.arange(COUNT), Learning(composites=1.0, prediction="sample")
    _, shown, _, wanted, _ = task(learning).draw(at, noises(at))
    for crop, vector in enumerate(shown["vector"]):
        (row,) = [r for r in (crop, crop + COUNT) if torch.equal(HELD["composite vector"][r], vector)]
        assert torch.equal(wanted[crop], HELD["composite"][row].float())


def test_a_samples_loss_does_not_depend_on_its_batch():
    net, one = tiny_network(), task(Learning(prediction="v_prediction"))
    with torch.no_grad():
        together = one.loss(net, torch.tensor([2, 5, 9]), noises([2, 5, 9]))
        alone = one.loss(net, torch.tensor([5]), noises([5]))
    torch.testing.assert_close(together[1:2], alone)


@pytest.mark.parametrize("kind", ["bottleneck", "label"])
def test_the_n_pair_loss_is_added_to_it(kind):
    net, ids = tiny_network(), torch.arange(COUNT)
    with torch.no_grad():
        plain = task().loss(net, ids, noises(range(COUNT)))
        found = task(Learning(npair=kind)).loss(net, ids, noises(range(COUNT)))
        label = labels.draw(noises(range(COUNT)), COUNT)
        _, shown = task().inputs(ids, label)
        features = net.mapping(shown["vector"]).flatten(1)
        if kind == "bottleneck":
            kept = []
            net.unet.mid_block.register_forward_hook(lambda *a: kept.append(a[-1]))
            task().loss(net, ids, noises(range(COUNT)))
            features = kept[0].mean(dim=(2, 3))
    torch.testing.assert_close(found - plain, NPAIR_WEIGHT * npair_loss(features, label), rtol=1e-3, atol=1e-6)
    assert (found - plain).abs().max() > 1e-3


def test_training_goes_and_what_changes_it_is_named():
    recipe = SMOKE.recipe
    one = task(Learning(norm="l2", npair="label"))
    assert one.settings == {
        "norm": "l2", "only": None, "npair": "label", "prediction": "epsilon", "schedule": "scaled_linear"
    }  # fmt: skip
    net = tiny_network()
    steps = train(net, one, recipe, seed=0)
    losses = [step.loss for step, _ in zip(steps, range(3), strict=False)]
    assert all(math.isfinite(loss) for loss in losses) and not same_weights(net, tiny_network())


# -- N-pair -----------------------------------------------------------------------------------------------------------


def naive(features: Tensor, label: Tensor) -> float:
    """Eq. 3 as printed, but for the second term's brackets; P is all pairs of two."""
    total, pairs = 0.0, 0
    for p in range(len(features)):
        for q in range(len(features)):
            if p != q:
                d = math.dist(features[p].tolist(), features[q].tolist())
                sign = 1 if label[p] == label[q] else -1
                total += math.log((1 + math.exp(sign * d)) / 2)
                pairs += 1
    return total / pairs


@pytest.mark.parametrize("seed", range(4))
def test_n_pair_equals_the_double_loop(seed):
    noise = KeyedNoise(seed, range(7), "features")
    features, label = noise.normal((5,)).double(), noise.integers(0, 3)
    found = npair_loss(features, label)
    assert found.shape == (7,) and found.mean().item() == pytest.approx(naive(features, label), rel=1e-5)


def test_n_pair_pulls_equal_labels_together_and_others_apart():
    features = torch.tensor([[0.0], [1.0], [2.0]], requires_grad=True)
    npair_loss(features, torch.tensor([0, 0, 1])).sum().backward()
    down = -features.grad[:, 0]
    assert down[0] > 0 and down[2] > 0  # the first goes to the second, the third away
    assert npair_loss(torch.zeros(3, 2), torch.tensor([0, 1, 2])).abs().max() < 1e-5  # log(2 / 2)


def test_n_pair_stays_finite():
    """exp overflows at 88; equal features have no direction."""
    for scale in (0.0, 1e4):
        features = (scale * torch.tensor([[0.0, 1.0], [0.0, 0.0], [3.0, 4.0]])).requires_grad_()
        found = npair_loss(features, torch.tensor([0, 1, 0]))
        found.sum().backward()
        assert torch.isfinite(found).all() and torch.isfinite(features.grad).all()
    far = npair_loss(torch.tensor([[0.0], [1e4]]), torch.tensor([0, 0]))
    torch.testing.assert_close(far, torch.full((2,), 1e4 - math.log(2)))
    assert npair_loss(torch.ones(1, 4), torch.tensor([2])).tolist() == [0.0]
