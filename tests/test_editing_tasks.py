"""What the editing networks learn: the pair a label names, the loss on it, and the N-pair loss of the paper's Eq. 3."""

import itertools
import math
from types import SimpleNamespace

import pytest
import torch
from tiny import same_weights
from tiny_editing import FULL, tiny_network
from torch import Tensor, nn

from repro.ddpm.schedules import by_name
from repro.editing import sampling
from repro.editing.study.experiments import SMOKE
from repro.editing.tasks import NPAIR_WEIGHT, EditTask, Learning, npair_loss, only, single_edit
from repro.editing.vector import NAMES, TASKS, batch
from repro.engine.rng import KeyedNoise
from repro.engine.train import train

SCHEDULE = by_name(**sampling.SCHEDULE)
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


def composites(rounds: int = 2) -> dict[str, Tensor]:
    """Composites of those crops: of crop i the i-th five bits, counted from its round, as labels."""
    rows = torch.arange(rounds * COUNT)
    on = torch.stack([(rows + 3) // 2**i % 2 for i in range(5)], dim=1)
    vectors = [FULL.only(*(t for t, yes in zip(TASKS, row, strict=True) if yes)) for row in on.tolist()]
    latents = KeyedNoise(1, rows.tolist(), "composites").normal((4, *SIZE)).half()
    return {"composite": latents, "composite vector": batch(vectors)}


HELD = {**bank(), **composites()}


def noises(ids):
    return lambda purpose: KeyedNoise(3, list(ids), purpose)


def task(learning: Learning | None = None, **more) -> EditTask:
    return EditTask(HELD, SCHEDULE, learning or Learning(), **more)


class Recorder(nn.Module):
    """Outputs 0.25 and keeps its inputs."""

    def forward(self, sample, timestep, **inputs):
        self.inputs = {"sample": sample, "timestep": timestep, **inputs}
        return SimpleNamespace(sample=torch.full_like(sample, 0.25))


def test_labels_are_uniform_and_one_task_is_left():
    visits = range(6000)
    label = task().draw(torch.tensor(visits) % COUNT, noises(visits))[-1]
    assert (torch.bincount(label, minlength=6) - 1000).abs().max() < 120  # four deviations
    for value, name in enumerate(TASKS, start=1):
        assert task(Learning(only=name)).draw(torch.arange(3), noises(range(3)))[-1].tolist() == [value] * 3
    singles = batch([FULL.only(*name) for name in ((), *((task,) for task in TASKS))])
    assert torch.equal(only(batch([FULL] * 6), torch.arange(6)), singles)


@pytest.mark.parametrize(("latent", "mask"), [(False, False), (True, True)])
def test_whatever_belongs_to_another_task_is_zero(latent, mask):
    at, label = torch.tensor([3, 7, 3, 4, 5, 6]), torch.arange(6)
    source, target = single_edit(HELD, at, label)
    inputs = task(latent_reference=latent, mask=mask).inputs(at, only(HELD["vector"][at], label))
    assert set(inputs) == {"source", "reference", "vector", *(["mask"] if mask else [])}
    for i, name in enumerate(("", *TASKS)):
        crop, goal = at[i], name if name in ("blur", "grain", "colour", "sharpen") else "sharp"
        own = HELD["masked" if name == "inpaint" else "sharp"][crop]
        assert torch.equal(target[i], HELD[goal][crop]) and torch.equal(source[i], own)
        assert torch.equal(inputs["source"][i], own.float())
        reference = HELD["reference" if latent else "rgb"][crop].float()
        assert torch.equal(inputs["reference"][i], reference * (name == "colour"))
        if mask:
            assert torch.equal(inputs["mask"][i], HELD["mask"][crop].float() * (name == "inpaint"))


@pytest.mark.parametrize(("norm", "prediction"), [("l1", "epsilon"), ("l2", "v_prediction")])
def test_the_loss_is_the_papers(norm, prediction):
    """Eq. 2 by hand: |network(z_t) - target|^p, z_t = a z_0 + s eps, the norm a mean over each sample."""
    one, ids, model = task(Learning(norm=norm, prediction=prediction)), torch.arange(COUNT), Recorder()
    found = one.loss(model, ids, noises(range(COUNT)))
    label, t = (KeyedNoise(3, range(COUNT), p).integers(0, n) for p, n in (("label", 6), ("time", 1000)))
    eps = KeyedNoise(3, range(COUNT), "noise").normal((4, *SIZE))
    z_B = single_edit(one.held, ids, label)[1]
    alpha_bar = SCHEDULE.alpha_bar[t].float()[:, None, None, None]
    a, s = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
    error = 0.25 - (eps if prediction == "epsilon" else a * eps - s * z_B)
    torch.testing.assert_close(found, (error.abs() if norm == "l1" else error**2).mean(dim=(1, 2, 3)))
    torch.testing.assert_close(model.inputs["sample"], a * z_B + s * eps)
    assert torch.equal(model.inputs["timestep"], t)
    for name, value in one.inputs(ids, only(one.held["vector"], label)).items():
        assert torch.equal(model.inputs[name], value)


def test_times_are_drawn_evenly_or_more_of_them_low():
    """A share of them among the lowest fifth, the others where they were."""
    at, visits = torch.arange(4000) % COUNT, range(4000)
    even, low = (task(Learning(low=share)).draw(at, noises(visits))[2] for share in (0.0, 0.25))
    assert (even < 200).float().mean().item() == pytest.approx(0.2, abs=0.03)
    assert (low < 200).float().mean().item() == pytest.approx(0.25 + 0.75 * 0.2, abs=0.03)
    moved = low != even
    assert (low[moved] == even[moved] % 200).all() and moved.float().mean().item() == pytest.approx(0.2, abs=0.03)
    assert "low" not in task().settings and task(Learning(low=0.25)).settings["low"] == 0.25


def test_a_share_of_the_visits_has_a_composite_with_the_target_of_its_round():
    visits = torch.arange(600)
    at = visits % COUNT
    single, both = (task(Learning(composites=p, prediction="sample"), mask=True) for p in (0.0, 0.5))
    (_, plain, *_), (_, more, _, target, _) = (each.draw(at, noises(visits)) for each in (single, both))
    moved = (more["vector"] != plain["vector"]).any(dim=1)
    assert 0.42 < moved.float().mean() < 0.55  # a composite may be of one crop's single edit here
    assert all(torch.equal(more[k][~moved], plain[k][~moved]) for k in plain)
    assert "composites" not in single.settings and both.settings["composites"] == 0.5
    for i in moved.nonzero().flatten().tolist()[:40]:
        crop, vector = int(at[i]), more["vector"][i]
        (row,) = [r for r in (crop, crop + COUNT) if torch.equal(HELD["composite vector"][r], vector)]
        assert torch.equal(target[i], HELD["composite"][row].float())
        hole, colour = (bool(vector[NAMES.index(name)]) for name in ("inpaint", "colour"))
        assert torch.equal(more["source"][i], HELD["masked" if hole else "sharp"][crop].float())
        assert torch.equal(more["mask"][i], HELD["mask"][crop].float() * hole)
        assert torch.equal(more["reference"][i], HELD["rgb"][crop].float() * colour)


@pytest.mark.parametrize("kind", ["bottleneck", "label"])
def test_the_n_pair_loss_is_added_and_a_network_is_trained_by_it(kind):
    net, ids, learning = tiny_network(), torch.arange(COUNT), Learning(npair=kind)
    with torch.no_grad():
        plain, found = (task(each).loss(net, ids, noises(ids)) for each in (None, learning))
        z_t, inputs, t, _, label = task().draw(ids, noises(ids))
        _, bottleneck, tokens = net(z_t, t, **inputs, features=True)
        features = bottleneck.mean(dim=(2, 3)) if kind == "bottleneck" else tokens.flatten(1)
    torch.testing.assert_close(found - plain, NPAIR_WEIGHT * npair_loss(features, label), rtol=1e-3, atol=1e-6)
    settings = {"norm": "l1", "only": None, "npair": kind, "prediction": "epsilon", "schedule": "scaled_linear"}
    assert task(learning).settings == settings
    losses = [step.loss for step, _ in zip(train(net, task(learning), SMOKE.recipe, seed=0), range(2), strict=False)]
    assert all(math.isfinite(loss) for loss in losses) and not same_weights(net, tiny_network())


def naive(features: Tensor, label: Tensor) -> float:
    """Eq. 3 as printed, but for the second term's brackets; the mean over all pairs of two."""
    terms = []
    for p, q in itertools.permutations(range(len(features)), 2):
        d = math.dist(features[p].tolist(), features[q].tolist())
        terms.append(math.log((1 + math.exp(d if label[p] == label[q] else -d)) / 2))
    return sum(terms) / len(terms)


def test_n_pair_equals_the_double_loop_and_stays_finite():
    """exp overflows at 88; equal features have no direction."""
    noise = KeyedNoise(0, range(7), "features")
    features, label = noise.normal((5,)).double(), noise.integers(0, 3)
    found = npair_loss(features, label)
    assert found.shape == (7,) and found.mean().item() == pytest.approx(naive(features, label), rel=1e-5)
    for scale in (0.0, 1e4):
        features = (scale * torch.tensor([[0.0, 1.0], [0.0, 0.0], [3.0, 4.0]])).requires_grad_()
        found = npair_loss(features, torch.tensor([0, 1, 0]))
        found.sum().backward()
        assert torch.isfinite(found).all() and torch.isfinite(features.grad).all()
    assert npair_loss(torch.ones(1, 4), torch.tensor([2])).tolist() == [0.0]
