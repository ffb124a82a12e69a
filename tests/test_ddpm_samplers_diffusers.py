"""Full sampling loops equal diffusers' schedulers with the same noise, by the largest absolute difference.

diffusers keeps float32 tables; they are replaced by our float64 ones here, so that the formulas are compared to 1e-10.
The last test keeps diffusers as it comes.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn

from repro.ddpm import process, samplers, schedules
from repro.engine.rng import KeyedNoise

LINEAR, COSINE, LATENT = schedules.linear(), schedules.cosine(), schedules.scaled_linear()
ZERO = schedules.zero_terminal_snr(LINEAR)
NOISE = KeyedNoise(0, range(3), "noise")


class Net(nn.Module):
    """A small nonlinear network of x and t, with a second head where asked."""

    def __init__(self, heads: int = 1) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(2, 8, 3, padding=1), nn.Conv2d(8, 2 * heads, 3, padding=1)
        generator = torch.Generator().manual_seed(0)
        for p in self.parameters():
            p.data = 0.3 * torch.randn(p.shape, generator=generator)

    def forward(self, x, t):
        hidden = torch.sin(self.first(x) + (t / 200).to(x.dtype)[:, None, None, None])
        return torch.tanh(self.second(hidden)) * 1.5


def start(dtype=torch.float64) -> torch.Tensor:
    return KeyedNoise(0, range(3), "start").normal((2, 6, 6)).to(dtype)


def theirs(schedule, kind, exact=True, **kwargs):
    scheduler = schedules.to_diffusers(schedule, kind, **kwargs)
    if exact:
        scheduler.alphas_cumprod = schedule.alpha_bar
        if kwargs.get("set_alpha_to_one") is False:
            scheduler.final_alpha_cumprod = schedule.alpha_bar[0]
    return scheduler


@torch.no_grad()
def run_ddim(model, scheduler, x, steps, eta, use_clipped):
    """diffusers' loop; the noise is ours, asked for by timestep."""
    scheduler.set_timesteps(steps)
    states = []
    for t in scheduler.timesteps:
        z = NOISE(int(t), x) if eta > 0 else None
        output = model(x, t.expand(len(x)))
        x = scheduler.step(output, t, x, eta=eta, variance_noise=z, use_clipped_model_output=use_clipped).prev_sample
        states.append(x)
    return states


@torch.no_grad()
def run_ddpm(model, scheduler, x, steps):
    """diffusers' loop; its generator is drawn from in the order of the steps."""
    generator = torch.Generator().manual_seed(7)
    scheduler.set_timesteps(steps)
    states = []
    for t in scheduler.timesteps:
        x = scheduler.step(model(x, t.expand(len(x))), t, x, generator=generator).prev_sample
        states.append(x)
    return states


def largest(ours, others) -> float:
    assert len(ours) == len(others)
    assert all(a.isfinite().all() for a in ours)
    # absolute, except where states outgrow 1: unclipped, the cosine schedule starts with a division by 5e-5
    return max(((a - b).abs().max() / b.abs().max().clamp(min=1)).item() for a, b in zip(ours, others, strict=True))


@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("kind", process.KINDS)
@pytest.mark.parametrize(("schedule", "steps", "spacing"), [(LINEAR, 20, "leading"), (COSINE, 10, "trailing")])
def test_ddim(schedule, steps, spacing, kind, eta, clip):
    net = Net().double()
    for use_clipped in {clip, False}:
        scheduler = theirs(schedule, "ddim", prediction_type=kind, clip_sample=clip, timestep_spacing=spacing)
        others = run_ddim(net, scheduler, start(), steps, eta, use_clipped)
        steps_of = samplers.ddim(
            net,
            start(),
            schedule,
            steps,
            eta=eta,
            noise=NOISE,
            spacing=spacing,
            prediction=kind,
            clip=clip,
            eps_from_clipped=use_clipped,
        )
        ours = list(steps_of)
        assert largest([s.x for s in ours], others) < 1e-10
        assert [s.t for s in ours] == scheduler.timesteps.tolist()
        if clip:
            assert max(s.x0.abs().max() for s in ours) == 1  # clipping did happen


@pytest.mark.parametrize("final", ["one", "first"])
def test_ddim_latent_settings(final):
    """Stable Diffusion's: offset 1, no clipping, alpha_bar after the last step 1 or the schedule's first."""
    net = Net().double()
    scheduler = theirs(LATENT, "ddim", clip_sample=False, steps_offset=1, set_alpha_to_one=final == "one")
    others = run_ddim(net, scheduler, start(), 50, 0.3, False)
    ours = samplers.ddim(net, start(), LATENT, 50, eta=0.3, noise=NOISE, offset=1, clip=False, final=final)
    assert largest([s.x for s in ours], others) < 1e-10


@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large", "learned_range"])
@pytest.mark.parametrize("kind", process.KINDS)
@pytest.mark.parametrize(("steps", "spacing"), [(40, "leading"), (37, "linspace"), (30, "trailing")])
def test_ancestral(steps, spacing, kind, variance, clip):
    net = Net(2 if variance == "learned_range" else 1).double()
    scheduler = theirs(
        LINEAR, "ddpm", prediction_type=kind, clip_sample=clip, variance_type=variance, timestep_spacing=spacing
    )
    others = run_ddpm(net, scheduler, start(), steps)
    noise = samplers.generator_noise(torch.Generator().manual_seed(7))
    ours = list(
        samplers.ancestral(
            net, start(), LINEAR, noise, steps, spacing=spacing, prediction=kind, variance=variance, clip=clip
        )
    )
    states = [s.x for s in ours]
    if (
        ours[-1].t > 0
    ):  # diffusers adds noise after t > 0 even where the step ends at the data; here the mean is the end
        states, others = states[:-1], others[:-1]
    assert largest(states, others) < 1e-10
    assert [s.t for s in ours] == scheduler.timesteps.tolist()


def test_all_thousand_steps():
    net = Net().double()
    others = run_ddpm(net, theirs(LINEAR, "ddpm"), start(), 1000)
    noise = samplers.generator_noise(torch.Generator().manual_seed(7))
    assert largest([s.x for s in samplers.ancestral(net, start(), LINEAR, noise)], others) < 1e-10


@pytest.mark.parametrize("kind", ["v_prediction", "sample"])
@pytest.mark.parametrize("clip", [True, False])
def test_zero_terminal_snr(kind, clip):
    net = Net().double()
    scheduler = theirs(ZERO, "ddim", prediction_type=kind, clip_sample=clip, timestep_spacing="trailing")
    assert scheduler.config.rescale_betas_zero_snr
    others = run_ddim(net, scheduler, start(), 20, 1.0, clip)
    ours = list(
        samplers.ddim(net, start(), ZERO, 20, eta=1.0, noise=NOISE, spacing="trailing", prediction=kind, clip=clip)
    )
    assert ours[0].t == 999 and ours[0].a == 0
    assert largest([s.x for s in ours], others) < 1e-10
    scheduler = theirs(ZERO, "ddpm", prediction_type=kind, clip_sample=clip, timestep_spacing="linspace")
    noise = samplers.generator_noise(torch.Generator().manual_seed(7))
    ours = samplers.ancestral(net, start(), ZERO, noise, 50, spacing="linspace", prediction=kind, clip=clip)
    assert largest([s.x for s in ours], run_ddpm(net, scheduler, start(), 50)) < 1e-10


@pytest.mark.parametrize(("spacing", "steps"), [("leading", 50), ("trailing", 25)])
def test_inversion(spacing, steps):
    net = Net().double()
    scheduler = theirs(LINEAR, "ddim_inverse", clip_sample=False, timestep_spacing=spacing)
    scheduler.set_timesteps(steps)
    x, others = start() * 0.3, []
    with torch.no_grad():
        for t in scheduler.timesteps:
            x = scheduler.step(net(x, t.expand(3)), t, x).prev_sample
            others.append(x)
    ours = list(samplers.ddim_invert(net, start() * 0.3, LINEAR, steps, spacing=spacing))
    assert largest([s.x for s in ours], others) < 1e-10
    assert [s.t for s in ours] == scheduler.timesteps.tolist()


def test_inversion_of_sample_predictions_is_undefined_in_diffusers():
    """Why `ddim_invert` reads outputs at the network's own t: the other way the first step is 0 / 0."""
    net = Net().double()
    scheduler = theirs(LINEAR, "ddim_inverse", clip_sample=False, prediction_type="sample")
    scheduler.set_timesteps(50)
    t = scheduler.timesteps[0]
    with torch.no_grad():
        assert not scheduler.step(net(start(), t.expand(3)), t, start()).prev_sample.isfinite().all()
    ours = samplers.sample(samplers.ddim_invert(net, start(), LINEAR, 50, prediction="sample"))
    assert ours.isfinite().all()


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
def test_timesteps_equal_diffusers(spacing):
    for T in (1000, 50, 7):
        scheduler = schedules.to_diffusers(schedules.linear(T), "ddpm", timestep_spacing=spacing)
        for steps in range(2 if spacing == "linspace" else 1, T + 1, 1 if T < 100 else 7):
            scheduler.set_timesteps(steps)
            got, wanted = samplers.spaced(T, steps, spacing), scheduler.timesteps.tolist()
            assert len(set(got)) == steps and got[0] < T and got[-1] >= 0
            if len(wanted) == steps:  # its float arange sometimes gives one step too many
                assert got == wanted, (T, steps)


@pytest.mark.parametrize("kind", process.KINDS)
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_float32_step_by_step(eta, kind):
    """Each step from diffusers' own state, so that the network does not magnify a rounding of the step before."""
    net, x = Net(), start(torch.float32)
    others = run_ddim(net, theirs(LINEAR, "ddim", prediction_type=kind), x, 20, eta, False)
    timesteps = samplers.spaced(1000, 20)
    for i, (before, after) in enumerate(zip([x, *others], others, strict=False)):
        steps = samplers.ddim(
            net,
            before,
            LINEAR,
            timesteps=timesteps[i:],
            eta=eta,
            noise=NOISE,
            prediction=kind,
            eps_from_clipped=False,
        )
        assert (next(steps).x - after).abs().max() < 1e-6


def test_float32_loop_rounds_no_more_than_diffusers_as_it_comes():
    """Over a whole run a network magnifies roundings: our float32 stays nearer to float64 than diffusers' does."""
    exact = run_ddim(Net().double(), theirs(LINEAR, "ddim"), start(), 20, 1.0, False)
    x = start(torch.float32)
    stock = run_ddim(Net(), theirs(LINEAR, "ddim", exact=False), x, 20, 1.0, False)
    ours = [s.x for s in samplers.ddim(Net(), x, LINEAR, 20, eta=1.0, noise=NOISE, eps_from_clipped=False)]
    assert largest([x.double() for x in ours], exact) < min(2e-5, largest([x.double() for x in stock], exact))
