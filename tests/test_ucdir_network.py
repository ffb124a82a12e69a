"""Kernels, network, predictor and the loss: fused kernels written out, published sizes, every switch."""

from functools import partial

import pytest
import torch
from tiny import noises
from torch.nn import functional as F

from repro.data import files
from repro.data.degradations import lamp_light
from repro.data.images import to_model
from repro.engine.rng import KeyedNoise
from repro.engine.train import Recipe, train
from repro.errors import ReproError
from repro.metrics.pixel import lpips
from repro.ucdir.model import TRAINING, UCDIR, RestorationTask, UCDIRLoss, training_loss
from repro.ucdir.network import BASES, CONDITIONING, GUIDANCE, NORMS, AdaptiveKernels, statistics

TINY = dict(
    predictor_channels=8, predictor_levels=2, base_channels=8, channel_mults=(1, 2), blocks=1, light=True,
    attention_levels=(), norm="layer", patch=2, dropout=0.0,
)  # fmt: skip


def tiny(seed=0, **changes):
    torch.manual_seed(seed)
    model = UCDIR(**{**TINY, **changes}).eval()
    with torch.no_grad():  # the last layers start at zero
        model.unet.head[3].weight.normal_(std=0.1)
        model.predictor.out.weight.normal_(std=0.1)
    return model


def pair(size=(16, 24), count=2):
    noise = KeyedNoise(0, range(count), "pair")
    return [noise.uniform((3, *size), step=s) * 2 - 1 for s in (0, 1)]


def fused(x, M, weight, bias):
    """Eq. 2 to the letter: at every position the kernel sum_b M[b] W_b is built, then applied to the patch there."""
    B, C, H, W = x.shape
    group = C // BASES
    kernels = weight.view(C, BASES, group, 3, 3)  # basis fastest
    padded = F.pad(x, (1, 1, 1, 1))
    rows = []
    for i in range(H):
        row = []
        for j in range(W):
            F_ij = torch.einsum("bn,cngkl->bcgkl", M[:, :, i, j], kernels)  # (B, C, group, 3, 3)
            offset = torch.einsum("bn,cn->bc", M[:, :, i, j], bias.view(C, BASES))
            patch = padded[:, :, i : i + 3, j : j + 3].view(B, BASES, group, 3, 3)
            patch = patch.repeat_interleave(C // BASES, dim=1)  # channel c reads the group c // (C / N)
            row.append((F_ij * patch).sum(dim=(2, 3, 4)) + offset)
        rows.append(torch.stack(row, dim=-1))
    return torch.stack(rows, dim=-2)


@pytest.mark.parametrize("channels", [8, 16, 32])
def test_grouped_bases_equal_the_fused_kernel_of_every_position_value_and_gradient(channels):
    torch.manual_seed(1)
    layer = AdaptiveKernels(channels, 4, 3).double()
    torch.nn.init.normal_(layer.bases.bias)
    x, guide, emb = (torch.randn(2, c, 5, 6, dtype=torch.float64) for c in (channels, 3, 1))
    emb = emb[:, 0, 0, :4].contiguous().requires_grad_()
    x.requires_grad_(), guide.requires_grad_()
    leaves = [x, guide, emb, *layer.parameters()]
    both = layer(x, emb, guide), fused(x, layer.condition(emb, guide), layer.bases.weight, layer.bases.bias)
    assert torch.allclose(*both, atol=1e-12)
    toward = torch.randn_like(x)
    for a, b in zip(*(torch.autograd.grad(out, leaves, toward) for out in both), strict=True):
        assert torch.allclose(a, b, atol=1e-11)


def test_published_parameter_counts():
    with torch.device("meta"):
        model = UCDIR()
    assert sum(p.numel() for p in model.unet.parameters()) == 97_354_699
    assert sum(p.numel() for p in model.predictor.parameters()) == 7_760_163
    attended = [n for n, m in model.unet.named_modules() if n.endswith("attention.qkv")]
    assert len(attended) == 6  # two down, three up, one in the middle


def test_networks_that_cannot_be_built_are_refused():
    with pytest.raises(ReproError, match="guidance 'truth' is unknown: choose one of predictor, degraded, feature"):
        tiny(guidance="truth")


@pytest.mark.parametrize("conditioning", list(CONDITIONING))
@pytest.mark.parametrize("guidance", GUIDANCE)
def test_guide_and_level_reach_the_output_in_every_way_of_conditioning(conditioning, guidance):
    model = tiny(conditioning=conditioning, guidance=guidance)
    degraded, noisy = pair()
    level = torch.tensor([0.3, 0.8])
    initial = degraded * 0.5
    out = model.denoise(degraded, noisy, level, model.guide(degraded, initial))
    assert out.shape == noisy.shape
    assert not torch.allclose(out, model.denoise(degraded, noisy, level * 0.5, model.guide(degraded, initial)))
    other = model.denoise(degraded, noisy, level, model.guide(degraded, initial * 0.5))
    assert torch.equal(out, other) == (guidance != "predictor")


@pytest.mark.parametrize("norm", list(NORMS))
@pytest.mark.parametrize("form", [{}, {"light": False, "attention_levels": (1,), "activation": "relu"}])
def test_every_norm_and_both_forms_run_at_any_size(norm, form):
    degraded, noisy = pair((13, 22))
    assert tiny(norm=norm, **form).denoise(degraded, noisy, torch.ones(2), degraded).shape == (2, 3, 13, 22)


@pytest.mark.parametrize(("norm", "reaches"), [("layer", False), ("one-group", True), ("group", True)])
def test_layer_norm_is_per_position_and_the_public_one_is_over_the_picture(norm, reaches):
    """Changing a far corner changes the other one only through statistics over the whole image."""
    model, (degraded, noisy) = tiny(norm=norm), pair((96, 96))
    changed, view = degraded.clone(), statistics(degraded)
    changed[..., -8:, -8:] = 1
    a, b = (model.denoise(d, noisy, torch.ones(2), d, view=view)[..., :8, :8] for d in (degraded, changed))
    assert torch.allclose(a, b, atol=1e-6) != reaches


def test_every_scalar_is_used_and_none_is_ignored_silently():
    model = tiny(tasks=("lowlight", "jpeg"), predictor_widest=8)
    torch.nn.init.normal_(model.unet.unknown)
    degraded, noisy = pair()
    level, own = torch.ones(2) * 0.5, statistics(degraded)
    by_hand = torch.cat([f((degraded + 1) / 2, dim=(2, 3)) for f in (torch.mean, partial(torch.std, correction=0))], 1)
    assert torch.allclose(own, (by_hand + 1 / 255).log2() / 4) and (own <= 0.01).all() and (own >= -2).all()
    given = {"task": torch.tensor([0, 1]), "strength": torch.tensor([0.2, 0.9])}
    u, out = model.predictor(degraded, task=given["task"]), model.denoise(degraded, noisy, level, degraded, **given)
    assert torch.equal(u, model.predictor(degraded, own, given["task"]))
    assert torch.equal(out, model.denoise(degraded, noisy, level, degraded, **given, view=own))
    for name, other in {
        "task": torch.tensor([1, 0]),
        "strength": torch.tensor([0.2, torch.nan]),
        "view": own - 1,
    }.items():
        changed = {**given, "view": own, name: other}
        made = model.denoise(degraded, noisy, level, degraded, **changed)
        assert made.isfinite().all() and not torch.allclose(out[1], made[1])
        assert torch.equal(out[0], made[0]) == (name == "strength")  # an unknown one has a vector of its own
        assert torch.equal(u, model.predictor(degraded, changed["view"], changed["task"])) == (name == "strength")
    with pytest.raises(ReproError, match="of task and strength this network takes both: got task"):
        model.denoise(degraded, noisy, level, degraded, task=given["task"])
    with pytest.raises(ReproError, match="takes neither: got strength"):
        tiny().denoise(degraded, noisy, level, degraded, strength=given["strength"])


def test_gamma_or_its_root():
    degraded, noisy = pair()
    root, square = tiny(), tiny(level_input="gamma")
    square.load_state_dict(root.state_dict())
    level = torch.tensor([0.36, 0.81])
    a, b = square.denoise(degraded, noisy, level, degraded), root.denoise(degraded, noisy, level**2, degraded)
    assert torch.equal(a, b)


def test_with_a_residual_std_the_output_adds_to_the_best_linear_guess_of_the_noise():
    degraded, noisy = pair()
    model, level = tiny(residual_std=0.5, fine_std=0.1), torch.tensor([0.3, 0.999])
    a, s = (x[:, None, None, None] for x in (level, (1 - level**2).sqrt()))
    eps, out = model.denoise(degraded, noisy, level, degraded), model.unet(degraded, noisy, level, degraded)
    total = s**2 + 0.1**2 * a**2  # variance of `noisy` for a residual of deviation fine_std; its covariance with eps: s
    assert torch.allclose((eps - s / total * noisy) * total.sqrt(), a * 0.5 * out, atol=1e-5)


def test_the_predictor_learns_through_target_and_guide_unless_it_is_cut_off():
    clean, degraded = pair()
    eps, level = torch.randn(2, 3, 16, 24), torch.full((2,), 0.9)
    for guidance, detach, learns in (("predictor", False, True), ("none", False, True), ("predictor", True, False)):
        model = tiny(guidance=guidance)
        out, initial = model(degraded, clean, level, eps, detach=detach)
        out.sum().backward()
        grads = [p.grad for p in model.predictor.parameters()]
        assert all(g is not None for g in grads) == learns
        assert initial.shape == clean.shape


def test_the_training_pass_is_eq_1():
    clean, degraded = pair()
    model = tiny(residual_scale=4.0)
    eps, level = torch.randn(2, 3, 16, 24), torch.tensor([0.9, 0.2])
    u = model.predictor(degraded)
    assert torch.equal(UCDIR(**TINY).predictor(degraded), degraded)  # its last layer is zero at the start
    a = level[:, None, None, None]
    noisy = a * 4 * (clean - u) + (1 - a**2).sqrt() * eps
    assert torch.allclose(model(degraded, clean, level, eps)[0], model.denoise(degraded, noisy, level, u), atol=1e-6)


PICTURES = [KeyedNoise(0, [i], "photo").uniform((3, 20 + i, 24))[0] for i in range(5)]


def noisier(images, noise):
    strength = noise("degrade/settings").uniform(())
    grain = noise("degrade/sensor").normal(tuple(images.shape[1:]))
    return (images + strength[:, None, None, None] * grain).clamp(0, 1), strength


def cut(indices, crop, draw):
    return files.cut([PICTURES[i] for i in indices.tolist()], crop, draw), None


def task(**learning):
    return RestorationTask([f"photo {i}" for i in range(5)], cut, 16, UCDIRLoss(**learning), [noisier], scalars=True)


@pytest.mark.parametrize("power", [1, 2])
def test_the_loss_is_the_mean_absolute_or_squared_error_of_the_noise(power):
    model, places = tiny(), list(range(4))
    clean = KeyedNoise(0, places, "clean").uniform((3, 16, 16)) * 2 - 1
    found = training_loss(model, clean * 0.5, clean, noises(places), UCDIRLoss(squared=power == 2, pixel=0.5))
    eps = noises(places)("noise").normal((3, 16, 16))
    level = TRAINING.draw(noises(places)("level"))
    made, initial = model(clean * 0.5, clean, level, eps)
    by_hand = (made - eps).abs().pow(power).mean(dim=(1, 2, 3)) + 0.5 * (initial - clean).abs().mean(dim=(1, 2, 3))
    assert torch.allclose(found, by_hand, atol=1e-6)


def test_the_perceptual_term_is_lpips_of_a_quarter_of_the_first_estimates():
    model, places = tiny(), list(range(8))
    clean = KeyedNoise(0, places, "clean").uniform((3, 32, 32)) * 2 - 1
    degraded = clean * 0.5
    plain, found = (training_loss(model, degraded, clean, noises(places), UCDIRLoss(perceptual=w)) for w in (0, 0.3))
    down, right = noises(places)("corner").integers(0, 4, (2,))[0].tolist()
    images = ((x[:2].clamp(-1, 1) + 1) / 2 for x in (model.predictor(degraded), clean))
    pair = (F.pad(x, (right, 0, down, 0), mode="reflect") for x in images)
    assert torch.allclose((found - plain)[:2], 4 * 0.3 * lpips(*pair).float(), rtol=1e-4)
    assert torch.equal(found[2:], plain[2:])


def test_the_grid_term_is_what_the_four_pixels_of_two_by_two_differ_by_on_average_of_eight_by_eight():
    model, places = tiny(), list(range(4))
    clean = KeyedNoise(0, places, "clean").uniform((3, 16, 24)) * 2 - 1
    plain, found = (training_loss(model, clean * 0.5, clean, noises(places), UCDIRLoss(grid=w)) for w in (0, 6))
    error = model.predictor(clean * 0.5) - clean
    tiles = [error[:, :, i : i + 8, j : j + 8] for i in (0, 8) for j in (0, 8, 16)]
    phases = [(x[..., a::2, b::2] - x.mean(dim=(2, 3), keepdim=True)) for x in tiles for a in (0, 1) for b in (0, 1)]
    assert torch.allclose(
        (found - plain) / 6, sum(x.mean(dim=(2, 3)).abs().mean(dim=1) for x in phases) / 24, atol=1e-6
    )


def test_what_lamps_light_is_degraded_and_the_target_has_less_of_it():
    made, places = task(), list(range(4))
    made.lamp, made.degrade = {"share": 1.0}, [lambda images, noise: (images, torch.zeros(len(images)))]
    clean, degraded, _ = made.pair(torch.arange(4), noises(places))
    wanted = lamp_light(cut(torch.arange(4), 16, noises(places)("crop").uniform((3,)))[0], noises(places), share=1.0)
    assert torch.equal(clean, to_model(wanted[0])) and torch.equal(degraded, to_model(wanted[1]))
    assert not torch.equal(clean, degraded)


def test_a_run_that_began_before_there_were_these_terms_goes_on():
    known = {"objective", "detach", "pixel", "hidden", "shared", "crop"}
    assert set(task().settings) == known
    assert set(task(perceptual=0.1, grid=1.0, squared=True).settings) == known | {"perceptual", "grid", "squared"}


def test_regression_learns_the_clean_image():
    model = tiny()
    clean = KeyedNoise(0, [0, 1], "clean").uniform((3, 16, 16)) * 2 - 1
    found = training_loss(model, clean * 0.5, clean, noises([0, 1]), UCDIRLoss("regression"))
    assert torch.allclose(found, (model(clean * 0.5)[0] - clean).abs().mean(dim=(1, 2, 3)), atol=1e-6)


def test_a_sample_does_not_depend_on_its_batch_and_is_degraded_by_its_own_task():
    made, places = task(), list(range(100, 112))
    made.degrade += (lambda images, noise: (1 - images, torch.full((len(images),), 2.0)),)
    together = made.pair(torch.arange(12) % 5, noises(places))
    assert torch.equal(together[2] == 2, made.tasks(together[0], noises(places)) == 1)
    for i in range(12):
        alone = made.pair(torch.tensor([i % 5]), noises(places[i : i + 1]))
        assert all(torch.equal(a[i : i + 1], b) for a, b in zip(together, alone, strict=True))


def test_hidden_strengths_are_those_of_the_share_asked_for():
    given = []

    def network(degraded, clean, level, eps, detach, task, strength):
        given.append(strength)
        return eps, degraded

    task(hidden=0.2).loss(network, torch.zeros(400, dtype=torch.long), noises(list(range(400))))
    assert 0.14 < given[0].isnan().float().mean() < 0.26


def test_training_lowers_the_loss():
    recipe = Recipe(images=2_000, batch=8, lr=3e-3, ema=200, precision="fp32")
    losses = [s.loss for s in train(tiny(tasks=("a",)), task(), recipe, seed=0)]
    assert sum(losses[-25:]) < 0.85 * sum(losses[:25])
