"""RDDM in diffusers: scheduler equal to the plain samplers, pipeline with images of any kind, saved and loaded."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMPipeline,
    DDIMScheduler,
    DDPMPipeline,
    DDPMScheduler,
    EulerDiscreteScheduler,
    UNet2DModel,
)
from diffusers.utils.torch_utils import randn_tensor
from PIL import Image

from repro.ddpm import process as ddpm_process
from repro.ddpm.process import model_fn
from repro.engine.checkpoint import save_checkpoint
from repro.engine.rng import KeyedNoise
from repro.errors import ReproError
from repro.nn.unet import UNet
from repro.rddm import process
from repro.rddm.model import RDDMNet
from repro.rddm.pipeline import RDDMPipeline
from repro.rddm.samplers import Clip, reverse
from repro.rddm.scheduler import RDDMScheduler
from repro.rddm.schedules import by_config
from repro.rddm.study.experiments import USE, learning_of

SMALL = dict(base_channels=8, channel_mults=(1, 2), norm_groups=4)
NOISE = KeyedNoise(0, range(2), "noise")
IMAGE = KeyedNoise(0, range(2), "image").uniform((3, 11, 14))


def shaken(net, scale=0.15):
    """Weights that say something: a fresh network answers zeros."""
    generator = torch.Generator().manual_seed(0)
    for p in net.parameters():
        p.data = scale * torch.randn(p.shape, generator=generator)
    return net.eval().requires_grad_(False)


def make(net, **settings):
    pipe = RDDMPipeline(net, RDDMScheduler(**settings))
    pipe.set_progress_bar_config(disable=True)
    return pipe


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def tiny_ddpm():
    net = UNet2DModel(
        sample_size=12, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4,
        down_block_types=("DownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    pipe = DDPMPipeline(shaken(net), DDPMScheduler(num_train_timesteps=100))
    pipe.set_progress_bar_config(disable=True)
    return pipe


# -- scheduler --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("eta", [0.0, 0.7])
@pytest.mark.parametrize("objective", ["res", "noise", "res_noise"])
def test_scheduler_takes_the_samplers_steps(objective, eta):
    net = shaken(RDDMNet(objective, **SMALL))
    scheduler = RDDMScheduler(50, sum_scale=0.25, objective=objective, residual_range=1.0, rule="rederive")
    schedule = by_config(50, sum_scale=0.25)
    I_in = 2 * IMAGE - 1
    scheduler.set_timesteps(6, start=48)
    x = start = scheduler.start(I_in, NOISE(0, I_in))
    torch.testing.assert_close(start, process.start(I_in, NOISE(0, I_in), schedule, 48))
    model = ddpm_process.model_fn(net, I_in)
    plain = reverse(
        model, start, I_in, schedule, 6, objective=objective, start=48, eta=eta, noise=NOISE, rule="rederive",
        clip=Clip(True, 1.0),
    )  # fmt: skip
    for t, step in zip(scheduler.timesteps, plain, strict=True):
        output = model(x, t.expand(2))
        found = scheduler.step(output, t, x, I_in, eta=eta, variance_noise=NOISE(int(t), x))
        for got, wanted in zip(found.to_tuple(), (step.x, step.x0, step.res, step.eps), strict=True):
            torch.testing.assert_close(got, wanted)
        x = found.prev_sample


def test_scheduler_saves_loads_and_adds_noise(tmp_path):
    scheduler = RDDMScheduler(60, "average", sum_scale=0.01, objective="res_noise", residual_range=None)
    scheduler.save_pretrained(tmp_path)
    again = RDDMScheduler.from_pretrained(tmp_path)
    one, two = ({k: v for k, v in s.config.items() if k[0] != "_"} for s in (scheduler, again))
    assert one == two
    assert torch.equal(again.schedule.bbar, scheduler.schedule.bbar) and again.clip == scheduler.clip
    t, I_0 = torch.tensor([0, 59]), IMAGE * 2 - 1
    noisy = again.add_noise(I_0, NOISE(1, I_0), t, condition=torch.zeros_like(I_0))
    assert torch.equal(noisy, process.q_sample(I_0, -I_0, t, NOISE(1, I_0), scheduler.schedule))
    assert torch.equal(noisy, again.add_noise(I_0, NOISE(1, I_0), t))


def test_scheduler_refuses():
    scheduler = RDDMScheduler(50, objective="noise")
    with pytest.raises(ReproError, match="SM-N cannot read"):
        scheduler.set_timesteps(5)
    with pytest.raises(ReproError, match=r"1\.\.50 .*got 51"):
        scheduler.set_timesteps(51)
    with pytest.raises(ReproError, match="timesteps must fall"):
        scheduler.set_timesteps(timesteps=[1, 2])
    scheduler.set_timesteps(5, start=40)
    with pytest.raises(ReproError, match="has not chosen timestep 39"):
        scheduler.step(IMAGE, 39, IMAGE)
    with pytest.raises(ReproError, match="'x0' is unknown"):
        RDDMScheduler(objective="x0")
    with pytest.raises(ReproError, match=r"\[0, 1\]: got 2"):
        scheduler.step(IMAGE, scheduler.timesteps[0], IMAGE, eta=2)


# -- pipeline ---------------------------------------------------------------------------------------------------------


def test_pipeline_restores_what_a_constant_network_says():
    """A network that always answers the residual 0.5 takes 0.25 off a picture in [0, 1], whatever the noise."""
    net = RDDMNet("res", **SMALL).eval()
    net.net.conv_out.bias.data.fill_(0.5)
    image = 0.3 + 0.5 * IMAGE
    found = make(net, num_train_timesteps=50)(image, generator=seeded(), num_inference_steps=3, output_type="pt").images
    torch.testing.assert_close(found, image - 0.25)


@pytest.mark.parametrize("size", [(16, 16), (11, 14), (1, 5)])
def test_pictures_of_any_size_keep_their_size(size, tiny_ddpm):
    image = KeyedNoise(0, [0], "image").uniform((3, *size))
    for pipe in (make(shaken(RDDMNet("res", **SMALL))), make(shaken(UNet(3, 3, 3, **SMALL)))):
        assert pipe(image, num_inference_steps=2, output_type="pt").images.shape == (1, 3, *size)
    pipe = RDDMPipeline.from_ddpm(tiny_ddpm)
    pipe.set_progress_bar_config(disable=True)
    found = pipe(height=size[0], width=size[1], num_inference_steps=2, output_type="pt").images
    assert found.shape == (1, 3, *size)


def test_generator_decides_and_a_picture_does_not_depend_on_its_batch():
    pipe = make(shaken(RDDMNet("res", **SMALL)), num_train_timesteps=50)
    common = dict(num_inference_steps=4, eta=1.0, output_type="pt")
    one = pipe(IMAGE, generator=[seeded(1), seeded(2)], **common).images
    again = pipe(IMAGE, generator=[seeded(1), seeded(2)], **common).images
    alone = pipe(IMAGE[1:], generator=[seeded(2)], **common).images
    other = pipe(IMAGE, generator=[seeded(1), seeded(3)], **common).images
    assert torch.equal(one, again)
    torch.testing.assert_close(one[1:], alone, rtol=0, atol=1e-5)
    assert torch.equal(one[0], other[0]) and (one[1] - other[1]).abs().max() > 0.01


def test_kinds_of_input_and_output_are_one_picture():
    pipe = make(shaken(RDDMNet("res", **SMALL)))
    array = np.round(IMAGE.permute(0, 2, 3, 1).numpy() * 255).astype(np.uint8)
    exact = torch.from_numpy(array).permute(0, 3, 1, 2).float() / 255
    kinds = [exact, array, array / np.float32(255), [Image.fromarray(a) for a in array], list(exact)]
    found = [pipe(kind, generator=seeded(), num_inference_steps=2, output_type="pt").images for kind in kinds]
    assert all(torch.equal(found[0], other) for other in found[1:])
    as_np = pipe(exact, generator=seeded(), num_inference_steps=2, output_type="np").images
    assert np.array_equal(as_np, found[0].permute(0, 2, 3, 1).numpy())
    as_pil = pipe(exact, generator=seeded(), num_inference_steps=2).images
    assert as_pil[0].size == (14, 11)
    assert np.array_equal(np.asarray(as_pil[1]), (as_np[1] * 255).round().astype(np.uint8))
    (plain,) = pipe(exact, generator=seeded(), num_inference_steps=2, output_type="pt", return_dict=False)
    assert torch.equal(plain, found[0])
    grey = make(shaken(RDDMNet("res", channels=1, **SMALL)))(Image.new("L", (9, 7), 100), num_inference_steps=2).images[
        0
    ]
    assert grey.size == (9, 7) and grey.mode == "L"


@pytest.mark.parametrize(
    ("net", "objective"),
    [
        (lambda: RDDMNet("res", **SMALL), "res"),
        (lambda: RDDMNet("res_noise", "one", **SMALL), "res_noise"),
        (lambda: RDDMNet("res_noise", "two", **SMALL), "res_noise"),
        (lambda: RDDMNet("res_noise", "shared", **SMALL), "res_noise"),
        (lambda: UNet(3, 3, 3, **SMALL), "res"),
        (lambda: UNet(3, 6, 0, **SMALL), "res_noise"),
    ],
)
def test_saved_and_loaded_it_draws_the_same(net, objective, tmp_path):
    pipe = make(shaken(net()), objective=objective, num_train_timesteps=50)
    image = IMAGE if pipe.conditional else None
    size = {} if pipe.conditional else {"height": 10, "width": 9}
    common = dict(num_inference_steps=3, output_type="pt", **size)
    before = pipe(image, generator=seeded(), **common).images
    pipe.save_pretrained(tmp_path)
    assert not list(tmp_path.rglob("*.bin"))
    again = RDDMPipeline.from_pretrained(tmp_path)
    again.set_progress_bar_config(disable=True)
    assert type(again.unet) is type(pipe.unet) and again.scheduler.config.objective == objective
    # to the last bits only: weights mapped from a file lie differently in memory
    torch.testing.assert_close(before, again(image, generator=seeded(), **common).images, rtol=0, atol=1e-6)
    assert before.std() > 0.01


# -- a pretrained DDPM ------------------------------------------------------------------------------------------------


def test_a_pretrained_DDPM_draws_what_DDIM_draws(tiny_ddpm, tmp_path):
    theirs, pipe = DDIMPipeline(tiny_ddpm.unet, tiny_ddpm.scheduler), RDDMPipeline.from_ddpm(tiny_ddpm)
    pipe.save_pretrained(tmp_path)
    published = RDDMPipeline.from_ddpm(tiny_ddpm, rule="eq12")
    loaded = RDDMPipeline.from_pretrained(tmp_path)
    for each in (theirs, pipe, loaded, published):
        each.set_progress_bar_config(disable=True)
    for steps, eta in ((10, 0.0), (25, 0.5)):
        common = dict(batch_size=2, num_inference_steps=steps, eta=eta, output_type="np")
        wanted, *found = (each(generator=seeded(), **common).images for each in (theirs, pipe, loaded, published))
        assert all(np.abs(x - wanted).max() < 1e-4 for x in found[:2]) and np.abs(found[2] - wanted).max() > 0.01


@pytest.mark.parametrize(
    "settings",
    [
        {"timestep_spacing": "linspace"},
        {"timestep_spacing": "trailing"},
        {"timestep_spacing": "trailing", "steps_offset": 1},
        {"steps_offset": 1},
        {"clip_sample": False},
        {"beta_schedule": "scaled_linear"},
        {"beta_schedule": "squaredcos_cap_v2"},
    ],
)
def test_every_setting_of_a_foreign_scheduler_counts(settings, tiny_ddpm):
    for kind, steps in ((DDPMScheduler, 7), (DDIMScheduler, 10), (DDPMScheduler, 33)):
        scheduler = kind(num_train_timesteps=100, **settings)
        theirs = DDIMPipeline(tiny_ddpm.unet, scheduler)
        ours = RDDMPipeline.from_ddpm(theirs)
        for pipe in (theirs, ours):
            pipe.set_progress_bar_config(disable=True)
        common = dict(num_inference_steps=steps, eta=0.3, output_type="np")
        wanted, found = (pipe(generator=seeded(), **common).images for pipe in (theirs, ours))
        assert np.abs(found - wanted).max() < 2e-3 * max(1, np.abs(wanted).max())


@pytest.mark.parametrize(
    ("scheduler", "message"),
    [
        (DDPMScheduler(thresholding=True), "dynamic thresholding.*thresholding=True"),
        (DDPMScheduler(clip_sample_range=2.0), "clip_sample_range=2.0"),
        (DDIMScheduler(set_alpha_to_one=False), "set_alpha_to_one=False"),
        (EulerDiscreteScheduler(use_karras_sigmas=True), "use_karras_sigmas=True has no counterpart"),
        (DDPMScheduler(beta_schedule="sigmoid"), "'sigmoid' is unknown"),
        (DDPMScheduler(prediction_type="v_prediction"), "predict 'epsilon'"),
        (DDPMScheduler(trained_betas=[0.1, 0.2], num_train_timesteps=2), "hand-made betas"),
    ],
)
def test_settings_without_counterpart_are_refused(scheduler, message):
    with pytest.raises(ReproError, match=message):
        RDDMScheduler.from_ddpm(scheduler)


def test_a_UNet2DModel_can_restore():
    net = UNet2DModel(
        in_channels=6, out_channels=3, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4,
        down_block_types=("DownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    pipe = make(shaken(net))
    assert pipe.conditional and pipe(IMAGE, num_inference_steps=2, output_type="pt").images.shape == IMAGE.shape
    # the condition is seen: another picture at the same state gives another answer
    x = 2 * IMAGE - 1
    assert not torch.equal(pipe._predict(x, 5, x), pipe._predict(x, 5, -x))


# -- refusals ---------------------------------------------------------------------------------------------------------


def test_a_network_that_learned_something_else_is_refused(tiny_ddpm):
    with pytest.raises(ReproError, match="trained for 'res'"):
        make(RDDMNet("res", **SMALL), objective="noise")
    with pytest.raises(ReproError, match="'res_noise' needs 2 x an image's channels out"):
        make(UNet(3, 3, 3, **SMALL), objective="res_noise")
    with pytest.raises(ReproError, match="'res_noise' needs 2 x"):
        make(tiny_ddpm.unet, objective="res_noise")
    with pytest.raises(ReproError, match="needs an RDDMScheduler"):
        RDDMPipeline(tiny_ddpm.unet, tiny_ddpm.scheduler)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"image": [IMAGE[0], IMAGE[0, :, :5]]}, "got 14x5, 14x11 in one batch"),
        ({"image": IMAGE, "batch_size": 3}, "belong to generation"),
        ({"image": None}, "give it a picture"),
        ({"image": IMAGE, "output_type": "jpg"}, "'jpg' is unknown"),
        ({"image": IMAGE, "generator": [torch.Generator()]}, "1 generators for 2 pictures"),
        ({"image": IMAGE, "num_inference_steps": 1001}, "got 1001"),
        ({"image": IMAGE, "timesteps": [3, 3]}, "without repetition"),
    ],
)
def test_wrong_calls_are_refused(settings, message):
    with pytest.raises(ReproError, match=message):
        make(RDDMNet("res", **SMALL))(**settings)


def test_generation_needs_a_size():
    pipe = make(shaken(RDDMNet("res", condition=False, **SMALL)))
    with pytest.raises(ReproError, match="needs batch_size, height and width"):
        pipe()
    assert pipe(batch_size=2, height=8, width=6, num_inference_steps=1, output_type="pt").images.shape == (2, 3, 8, 6)


# -- what ships --------------------------------------------------------------------------------------------------------


def test_the_network_for_use_by_its_task(tmp_path, monkeypatch):
    """Its own schedule and objective: the pipeline goes the plain sampler's way."""
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "pyproject.toml").touch()
    monkeypatch.setenv("REPRO_HOME", str(tmp_path))
    with pytest.raises(ReproError, match="rddm-raindrop-use-s0: no weights here; `repro list rddm`"):
        RDDMPipeline.shipped("raindrop")
    net = shaken(RDDMNet("res", **SMALL), 0.05)
    save_checkpoint(tmp_path / "checkpoints" / "rddm-raindrop-use-s0", net, {})
    pipe = RDDMPipeline.shipped("raindrop")
    pipe.set_progress_bar_config(disable=True)
    z = randn_tensor(IMAGE.shape, generator=seeded(3))
    learning = learning_of(USE["raindrop"], "use")
    x_T = process.start(2 * IMAGE - 1, z, learning.schedule)
    run = reverse(model_fn(pipe.unet, cond=2 * IMAGE - 1), x_T, 2 * IMAGE - 1, learning.schedule, 2, objective="res")
    *_, last = run
    found = pipe(IMAGE, num_inference_steps=2, generator=seeded(3), output_type="pt").images
    torch.testing.assert_close(found, ((last.x + 1) / 2).clamp(0, 1), rtol=0, atol=1e-5)
    with pytest.raises(ReproError, match="'regression' does not start from the degraded picture"):
        RDDMPipeline.shipped("raindrop", "regression")
