"""What the editing networks learn, and edits: of each image alone, holes stay closed, sequences are their steps."""

import itertools
import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from tiny import noises, same_weights
from tiny_editing import FULL, close, pictures, tiny_editor, tiny_network
from torch import Tensor, nn
from torch.nn import functional as F

from repro.ddpm.process import by_name, model_fn, q_sample
from repro.ddpm.samplers import ddim, sample
from repro.editing import sampling
from repro.editing.effects import TargetRules
from repro.editing.model import NPAIR_WEIGHT, EditLoss, EditTask, npair_loss, only, single_edit
from repro.editing.sampling import in_sequence
from repro.editing.study.experiments import SMOKE
from repro.editing.vector import NAMES, TASKS, EditingVector, batch
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


def task(learning: EditLoss | None = None, **more) -> EditTask:
    return EditTask(HELD, SCHEDULE, learning or EditLoss(), **more)


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
        assert task(EditLoss(only=name)).draw(torch.arange(3), noises(range(3)))[-1].tolist() == [value] * 3
    singles = batch([FULL.only(*name) for name in ((), *((task,) for task in TASKS))])
    assert torch.equal(only(batch([FULL] * 6), torch.arange(6)), singles)


@pytest.mark.parametrize(("latent", "mask"), [(False, False), (True, True)])
def test_whatever_belongs_to_another_task_is_zero(latent, mask):
    at, label = torch.tensor([3, 7, 3, 4, 5, 6]), torch.arange(6)
    source, target = single_edit(HELD, at, label)
    kind = "reference" if latent else "rgb"
    inputs = task(colours=kind, mask=mask).inputs(at, only(HELD["vector"][at], label))
    assert set(inputs) == {"source", "reference", "vector", *(["mask"] if mask else [])}
    for i, name in enumerate(("", *TASKS)):
        crop, goal = at[i], name if name in ("blur", "grain", "colour", "sharpen") else "sharp"
        own = HELD["masked" if name == "inpaint" else "sharp"][crop]
        assert torch.equal(target[i], HELD[goal][crop]) and torch.equal(source[i], own)
        assert torch.equal(inputs["source"][i], own.float())
        reference = HELD[kind][crop].float()
        assert torch.equal(inputs["reference"][i], reference * (name == "colour"))
        if mask:
            assert torch.equal(inputs["mask"][i], HELD["mask"][crop].float() * (name == "inpaint"))


@pytest.mark.parametrize(("norm", "prediction"), [("l1", "epsilon"), ("l2", "v_prediction")])
def test_the_loss_is_the_papers(norm, prediction):
    """Eq. 2 by hand: |network(z_t) - target|^p, z_t = a z_0 + s eps, the norm a mean over each sample."""
    one, ids, model = task(EditLoss(norm=norm, prediction=prediction)), torch.arange(COUNT), Recorder()
    found = one.loss(model, ids, noises(range(COUNT)))
    label, t = (KeyedNoise(0, range(COUNT), p).integers(0, n) for p, n in (("label", 6), ("time", 1000)))
    eps = KeyedNoise(0, range(COUNT), "noise").normal((4, *SIZE))
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
    even, low = (task(EditLoss(low=share)).draw(at, noises(visits))[2] for share in (0.0, 0.25))
    assert (even < 200).float().mean().item() == pytest.approx(0.2, abs=0.03)
    assert (low < 200).float().mean().item() == pytest.approx(0.25 + 0.75 * 0.2, abs=0.03)
    moved = low != even
    assert (low[moved] == even[moved] % 200).all() and moved.float().mean().item() == pytest.approx(0.2, abs=0.03)
    assert "low" not in task().settings and task(EditLoss(low=0.25)).settings["low"] == 0.25


def test_a_share_of_the_visits_has_a_composite_with_the_target_of_its_round():
    visits = torch.arange(600)
    at = visits % COUNT
    single, both = (task(EditLoss(composites=p), mask=True) for p in (0.0, 0.5))
    (_, plain, *_), (noisy, more, times, eps, _) = (each.draw(at, noises(visits)) for each in (single, both))
    moved = (more["vector"] != plain["vector"]).any(dim=1)
    assert 0.42 < moved.float().mean() < 0.55  # a composite may be of one crop's single edit here
    assert all(torch.equal(more[k][~moved], plain[k][~moved]) for k in plain)
    assert "composites" not in single.settings and both.settings["composites"] == 0.5
    for i in moved.nonzero().flatten().tolist()[:40]:
        crop, vector = int(at[i]), more["vector"][i]
        (row,) = [r for r in (crop, crop + COUNT) if torch.equal(HELD["composite vector"][r], vector)]
        clean, t = HELD["composite"][row].float(), times[i : i + 1]
        assert torch.equal(noisy[i : i + 1], q_sample(clean[None], t, eps[i : i + 1], SCHEDULE))
        hole, colour = (bool(vector[NAMES.index(name)]) for name in ("inpaint", "colour"))
        assert torch.equal(more["source"][i], HELD["masked" if hole else "sharp"][crop].float())
        assert torch.equal(more["mask"][i], HELD["mask"][crop].float() * hole)
        assert torch.equal(more["reference"][i], HELD["rgb"][crop].float() * colour)


@pytest.mark.parametrize("kind", ["bottleneck", "label"])
def test_the_n_pair_loss_is_added_and_a_network_is_trained_by_it(kind):
    net, ids, learning = tiny_network(), torch.arange(COUNT), EditLoss(npair=kind)
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


VECTORS = [FULL, FULL.only("blur"), EditingVector()]
IMAGE = pictures(3, 24)
REFERENCE = pictures(3, 40, purpose="reference")
HOLE = torch.zeros(3, 1, 24, 24)
HOLE[:, :, 5:15, 3:17] = 1
GIVEN = dict(reference=REFERENCE, hole=HOLE, steps=3)


@pytest.fixture(scope="module")
def editor():
    return tiny_editor()


def differ(a, b):
    return (a - b).abs().amax(dim=(1, 2, 3)) > 1e-3


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_a_picture_does_not_depend_on_its_batch(editor, eta):
    together = editor.edit(IMAGE, VECTORS, ["a", "b", 7], eta=eta, **GIVEN)
    assert together.shape == IMAGE.shape and together.min() >= 0 and together.max() <= 1
    for i, name in enumerate(["a", "b", 7]):
        own = dict(reference=REFERENCE[i : i + 1], hole=HOLE[i : i + 1], steps=3)
        close(editor.edit(IMAGE[i : i + 1], VECTORS[i : i + 1], [name], eta=eta, **own), together[i : i + 1])


def test_seed_id_and_request_decide(editor):
    plain = editor.edit(IMAGE, VECTORS, range(3), **GIVEN)
    assert torch.equal(editor.edit(IMAGE, VECTORS, range(3), **GIVEN), plain)
    assert differ(editor.edit(IMAGE, VECTORS, range(3), seed=1, **GIVEN), plain).all()
    assert differ(editor.edit(IMAGE, VECTORS, [0, 1, 3], **GIVEN), plain).tolist() == [False, False, True]
    assert differ(editor.edit(IMAGE, VECTORS, range(3), eta=1.0, **GIVEN), plain).all()
    asked = editor.edit(IMAGE, [VECTORS[0], FULL.only("grain"), VECTORS[2]], range(3), **GIVEN)
    moved = (asked - plain).abs().amax(dim=(1, 2, 3))
    assert moved[1] > 1e-4 and moved[0] == moved[2] == 0


def test_what_is_under_the_hole_is_never_looked_at(editor):
    plain = editor.edit(IMAGE, VECTORS, range(3), **GIVEN)
    vandalised = torch.where(HOLE.bool(), torch.nan, IMAGE)
    found = editor.edit(torch.cat([vandalised[:1], IMAGE[1:]]), VECTORS, range(3), **GIVEN)
    assert torch.equal(found, plain)
    # where inpainting is off, the image counts and the mask does not
    other = torch.where(HOLE.bool(), 1 - IMAGE, IMAGE)
    found = editor.edit(other, VECTORS, range(3), **GIVEN)
    assert differ(found, plain).tolist() == [False, True, True]
    assert torch.equal(editor.edit(IMAGE, VECTORS, range(3), **GIVEN | {"hole": HOLE.roll(3, dims=2)})[1:], plain[1:])


def test_inputs_follow_network_and_settings(editor):
    masked = tiny_editor(tiny_network(mask=True))
    inputs, _ = masked.conditions(IMAGE[..., :21, :], VECTORS, REFERENCE, HOLE[..., :21, :])
    share = F.avg_pool2d(F.pad(HOLE[:1, :, :21], (0, 0, 0, 3)), 4)
    close(inputs["mask"], torch.cat([share, torch.zeros(2, 1, 6, 6)]))  # inpainting is off for two
    latent = tiny_editor(tiny_network(reference="latent"))
    inputs, _ = latent.conditions(IMAGE, VECTORS, IMAGE, HOLE)
    close(inputs["reference"][:1], latent.autoencoder.encode(IMAGE[:1] * 2 - 1))
    assert not inputs["reference"][1:].any()
    flat = torch.tensor([0.2, 0.5, 0.9])[None, :, None, None].expand(1, 3, 70, 31)
    inputs, _ = tiny_editor(fill=0.5).conditions(IMAGE, [FULL] * 3, flat, HOLE)
    close(inputs["reference"], (flat[:, :, :6, :6] * 2 - 1).expand(3, -1, -1, -1))
    close(inputs["source"], editor.autoencoder.encode(torch.where(HOLE.bool(), 0.5, IMAGE) * 2 - 1))
    coded, autoencoder = replace(editor, quantize=True), editor.autoencoder
    close(coded.floor(IMAGE), (autoencoder.decode(autoencoder.encode(IMAGE * 2 - 1), True) + 1) / 2)


def test_grain_takes_further_steps(editor):
    """DDIM at uneven timesteps for the images that have grain, the even steps alone for the others."""
    inputs, _ = editor.conditions(IMAGE, VECTORS, REFERENCE, HOLE)
    start = KeyedNoise(0, range(3), "sample/x_T").normal(tuple(inputs["source"].shape[1:]))
    even = [999, 666, 332]
    steps = list(editor.trajectory(IMAGE, VECTORS, range(3), **GIVEN)[0])
    assert [step.t for step in steps] == [*even, 100, 20]
    for i, times in enumerate(([*even, 100, 20], even)):
        model = model_fn(editor.network, **{name: value[[i]] for name, value in inputs.items()})
        by_hand = ddim(model, start[[i]], editor.schedule, times, prediction=editor.prediction, clip=False)
        close(steps[-1].x[[i]], sample(by_hand))
    plain = replace(editor, late=())
    found, without = (made.edit(IMAGE, VECTORS, range(3), **GIVEN) for made in (editor, plain))
    assert differ(found, without).tolist() == [True, False, False] and torch.equal(found[1:], without[1:])
    many = GIVEN | {"steps": 50}  # the last of them is at t = 19: nothing is left to look at
    assert torch.equal(editor.edit(IMAGE, VECTORS, range(3), **many), plain.edit(IMAGE, VECTORS, range(3), **many))


@pytest.fixture(scope="module")
def singles():
    return {task: tiny_editor(tiny_network(seed)) for seed, task in enumerate(("inpaint", "grain", "colour"), start=1)}


@pytest.mark.parametrize("order", [("blur", "grain", "colour", "sharpen"), ("sharpen", "colour", "grain", "blur")])
def test_a_sequence_is_its_steps_by_hand(singles, order):
    tasks = ("inpaint", "grain", "colour")
    vectors = [FULL.only(*tasks), EditingVector(grain=0.1, colour=True, inpaint=True)]
    found = in_sequence(
        singles, IMAGE[:2], vectors, ["x", "y"], rules=TargetRules(order=order), reference=REFERENCE[:2], hole=HOLE[:2],
        steps=2, seed=5,
    )  # fmt: skip
    image = singles["inpaint"].edit(
        IMAGE[:2], [v.only("inpaint") for v in vectors], ["x", "y"], hole=HOLE[:2], steps=2, seed=5
    )
    for task in ("grain", "colour") if order[0] == "blur" else ("colour", "grain"):
        reference = REFERENCE[:2] if task == "colour" else None
        ids = [f"x {task}", f"y {task}"]  # every network its own noise
        image = singles[task].edit(image, [v.only(task) for v in vectors], ids, reference=reference, steps=2, seed=5)
    assert torch.equal(found, image)


def test_inversion_comes_back_to_the_source():
    """With the empty request, the way up and the way down are one ODE: what is left is the autoencoder's own error."""
    editor = tiny_editor(tiny_network(scale=0.2), prediction="epsilon")
    image, vectors, floor = IMAGE[:1], [EditingVector()], editor.floor(IMAGE[:1])
    error = [
        (editor.edit(image, vectors, [0], inversion=True, steps=steps) - floor).abs().mean() for steps in (3, 9, 27)
    ]
    assert error[0] > 2 * error[1] > 4 * error[2] and error[2] < 0.01  # first order: a third, three times
    assert (editor.edit(image, vectors, [0], steps=27) - floor).abs().mean() > 10 * error[2]
    noise = {"inversion": True, "reference": REFERENCE[:1]}  # found without the request
    runs = (editor.trajectory(image, [v], [0], **noise)[0] for v in (EditingVector(), EditingVector(0.9, colour=True)))
    assert torch.equal(*(next(run).x_t for run in runs))
