"""RDDM in diffusers: scheduler equal to the plain samplers, pipeline with images of any kind, saved and loaded."""

import numpy as np
import pytest
import torch
from diffusers import DDIMPipeline, DDIMScheduler, DDPMPipeline, DDPMScheduler, EulerDiscreteScheduler, UNet2DModel
from diffusers.utils.torch_utils import randn_tensor
from PIL import Image
from tiny import refused, shaken

from repro.data.images import resize
from repro.ddpm.process import model_fn
from repro.ddpm.samplers import sample
from repro.engine.checkpoint import save_checkpoint
from repro.engine.rng import KeyedNoise
from repro.errors import ReproError
from repro.rddm import process
from repro.rddm.model import PublishedNet, RDDMNet
from repro.rddm.pipeline import RDDMPipeline, RDDMScheduler, output_of
from repro.rddm.process import by_config
from repro.rddm.samplers import Sampler, times
from repro.rddm.study.experiments import SMALL as TASKS
from repro.rddm.study.experiments import USE, learning_of

SMALL = dict(base_channels=8, channel_mults=(1, 2), norm_groups=4)
NOISE = KeyedNoise(0, range(2), "noise")
IMAGE = KeyedNoise(0, range(2), "image").uniform((3, 11, 14))
Y = 2 * IMAGE - 1


def make(net, **settings):
    return RDDMPipeline(net, RDDMScheduler(**settings))


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def tiny_ddpm():
    net = UNet2DModel(
        sample_size=12, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4,
        down_block_types=("DownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    return DDPMPipeline(shaken(net), DDPMScheduler(num_train_timesteps=100))


@pytest.mark.parametrize("eta", [0.0, 0.7])
@pytest.mark.parametrize("objective", ["res", "noise", "res_noise"])
def test_scheduler_takes_the_samplers_steps(objective, eta):
    net = shaken(RDDMNet(objective, **SMALL))
    scheduler = RDDMScheduler(50, sum_scale=0.25, objective=objective, clip=1.0, rule="rederive")
    schedule = by_config(50, sum_scale=0.25)
    scheduler.set_timesteps(6, start=48)
    x = start = scheduler.start(Y, NOISE(0, Y))
    torch.testing.assert_close(start, process.start(Y, NOISE(0, Y), schedule, 48))
    plain = Sampler(schedule, objective, eta, 1.0, "rederive").run(model_fn(net, Y), start, Y, times(50, 6, 48), NOISE)
    for t, step in zip(scheduler.timesteps, plain, strict=True):
        found = scheduler.step(model_fn(net, Y)(x, t.expand(2)), t, x, Y, eta=eta, variance_noise=NOISE(int(t), x))
        torch.testing.assert_close(found.to_tuple(), (step.x, step.x0))
        x = found.prev_sample


def test_scheduler_refuses():
    scheduler = RDDMScheduler(50, objective="noise")
    with pytest.raises(ReproError, match=r"SM-N cannot read .* start=48"):
        scheduler.set_timesteps(5)
    scheduler.set_timesteps(5, start=40)
    with pytest.raises(ReproError, match="has not chosen timestep 39"):
        scheduler.step(IMAGE, 39, IMAGE)


def test_pipeline_restores_what_a_constant_network_says():
    """A network that always answers the residual 0.5 takes 0.25 off an image in [0, 1]; in tiles, too."""
    net = RDDMNet("res", **SMALL).eval()
    net.net.conv_out.bias.data.fill_(0.5)
    image, pipe = 0.3 + 0.5 * IMAGE, make(net, num_train_timesteps=50)
    found = pipe(image, generator=seeded(), num_inference_steps=3, output_type="pt").images
    torch.testing.assert_close(found, image - 0.25)
    large = 0.3 + 0.5 * KeyedNoise(0, [0], "image").uniform((3, 140, 180))
    torch.testing.assert_close(pipe(large, num_inference_steps=2, tile=128, output_type="pt").images, large - 0.25)
    pipe, settings = make(shaken(RDDMNet("res", **SMALL))), {"seed": 0, "num_inference_steps": 2, "output_type": "pt"}
    one, other = (output_of(pipe.unet, x, 5, 1 - x) for x in (IMAGE, IMAGE.flip(-1)))
    torch.testing.assert_close(output_of(pipe.unet, IMAGE, 5, 1 - IMAGE, mirrored=True), (one + other.flip(-1)) / 2)
    own = RDDMPipeline(pipe.unet, pipe.scheduler, tile=128)  # what "auto" is there
    for image, several in ((IMAGE, False), (large, True)):
        whole, tiles = (pipe(image, tile=tile, **settings).images for tile in (None, 128))
        assert torch.equal(own(image, **settings).images, tiles) and ((whole - tiles).abs().max() > 1e-3) == several


@pytest.mark.parametrize("size", [(16, 16), (11, 14), (1, 5)])
def test_pictures_of_any_size_keep_their_size(size):
    image = KeyedNoise(0, [0], "image").uniform((3, *size))
    for net in (RDDMNet("res", **SMALL), PublishedNet("res", dim=8, mults=(1, 2))):
        assert make(shaken(net))(image, num_inference_steps=2, output_type="pt").images.shape == (1, 3, *size)


def test_generator_decides_and_a_picture_does_not_depend_on_its_batch():
    pipe = make(shaken(RDDMNet("res", **SMALL)), num_train_timesteps=50)
    common = dict(num_inference_steps=4, eta=1.0, output_type="pt")
    one, again, other = (pipe(IMAGE, generator=[seeded(1), seeded(s)], **common).images for s in (2, 2, 3))
    alone = pipe(IMAGE[1:], generator=[seeded(2)], **common).images
    assert torch.equal(one, again)
    torch.testing.assert_close(one[1:], alone, rtol=0, atol=1e-5)
    assert torch.equal(one[0], other[0]) and (one[1] - other[1]).abs().max() > 0.01


def test_kinds_of_input_and_output_are_one_image():
    pipe = make(shaken(RDDMNet("res", **SMALL)))
    common = {"seed": 0, "num_inference_steps": 2}
    array = np.round(IMAGE.permute(0, 2, 3, 1).numpy() * 255).astype(np.uint8)
    exact = torch.from_numpy(array).permute(0, 3, 1, 2).float() / 255
    kinds = [exact, array, array / np.float32(255), [Image.fromarray(a) for a in array], list(exact)]
    found, *others = [pipe(kind, output_type="pt", **common).images for kind in kinds]
    assert all(torch.equal(found, other) for other in others)
    as_np, (as_pil,) = pipe(exact, output_type="np", **common).images, pipe(exact, return_dict=False, **common)
    assert np.array_equal(as_np, found.permute(0, 2, 3, 1).numpy()) and as_pil[0].size == (14, 11)
    assert np.array_equal(np.asarray(as_pil[1]), (as_np[1] * 255).round().astype(np.uint8))
    grey = make(shaken(RDDMNet("res", channels=1, **SMALL)))(Image.new("L", (9, 7), 100), num_inference_steps=2)
    assert grey.images[0].size == (9, 7) and grey.images[0].mode == "L"


@pytest.mark.parametrize("layout", ["two", "shared"])
def test_saved_and_loaded_it_draws_the_same(layout, tmp_path):
    net = shaken(RDDMNet("res_noise", layout, **SMALL))
    pipe = make(net, objective=net.config.objective, num_train_timesteps=50)
    given = {"image": IMAGE, "num_inference_steps": 3, "output_type": "pt"}
    before = pipe(generator=seeded(), **given).images
    pipe.save_pretrained(tmp_path)
    assert not list(tmp_path.rglob("*.bin"))
    again = RDDMPipeline.from_pretrained(tmp_path)
    assert type(again.unet) is type(pipe.unet) and again.scheduler.config.objective == net.config.objective
    # to the last bits only: weights mapped from a file lie differently in memory
    torch.testing.assert_close(before, again(generator=seeded(), **given).images, rtol=0, atol=1e-6)
    assert before.std() > 0.01


@pytest.mark.parametrize("settings", [{}, {"clip_sample": False}, {"beta_schedule": "scaled_linear"}])
def test_a_pretrained_DDPM_draws_what_DDIM_draws(settings, tiny_ddpm, tmp_path):
    """Generation is diffusers' own DDPMPipeline with RDDM's scheduler in it."""
    for kind, steps in ((DDPMScheduler, 10), (DDIMScheduler, 33)):
        theirs = DDIMPipeline(tiny_ddpm.unet, kind(num_train_timesteps=100, **settings))
        pipe = DDPMPipeline(theirs.unet, RDDMScheduler.from_ddpm(theirs.scheduler))
        published = DDPMPipeline(theirs.unet, RDDMScheduler.from_ddpm(theirs.scheduler, rule="eq12"))
        assert pipe.scheduler.init_noise_sigma == 1  # as DDIM's, though s_T is a little less
        pipe.save_pretrained(tmp_path)
        common = dict(batch_size=2, num_inference_steps=steps, output_type="np")
        wanted = theirs(generator=seeded(), **common).images
        for each, same in ((pipe, True), (DDPMPipeline.from_pretrained(tmp_path), True), (published, False)):
            gap = np.abs(each(generator=seeded(), **common).images - wanted).max()
            assert gap < 1e-3 * max(1, np.abs(wanted).max()) if same else gap > 0.01 or "clip_sample" in settings


def test_settings_without_counterpart_are_refused():
    cases = {
        "thresholding=True": DDPMScheduler(thresholding=True),
        "timestep_spacing='linspace'": DDIMScheduler(timestep_spacing="linspace"),
        "EulerDiscreteScheduler with": EulerDiscreteScheduler(),
        "'v_prediction'; accepted": DDPMScheduler(prediction_type="v_prediction"),
        "variance_type='learned_range'": DDPMScheduler(variance_type="learned_range"),
    }
    refused(cases, RDDMScheduler.from_ddpm)


def test_a_network_that_learned_something_else_is_refused(tiny_ddpm):
    with pytest.raises(ReproError, match="trained for 'res': it cannot be used as 'noise'"):
        make(RDDMNet("res", **SMALL), objective="noise")
    for net in (tiny_ddpm.unet, RDDMNet("res", condition=False, **SMALL)):
        with pytest.raises(ReproError, match=f"with condition=True .*: got {type(net).__name__} and RDDMScheduler"):
            make(net)


def test_a_large_image_gets_the_change_of_a_reduced_copy(tmp_path):
    pipe, call = make(shaken(RDDMNet("res", **SMALL))), {"num_inference_steps": 1, "seed": 0, "output_type": "pt"}
    RDDMPipeline(pipe.unet, pipe.scheduler, side=16, steps=1).save_pretrained(tmp_path)
    reduced = RDDMPipeline.from_pretrained(tmp_path)
    assert reduced.config.side == 16
    one = {**call, "num_inference_steps": None}  # its own number of steps
    torch.testing.assert_close(reduced(IMAGE, **one).images, pipe(IMAGE, **call).images, rtol=0, atol=1e-6)
    small = torch.rand(1, 3, 16, 20, generator=seeded())
    torch.testing.assert_close(reduced(small, **call).images, pipe(small, **call).images, rtol=0, atol=0)
    large = torch.rand(1, 3, 48, 60, generator=seeded()) / 2 + 0.25
    copy = resize(large, 16)
    change = pipe(copy, **call).images - copy
    assert change.abs().max() > 0.01
    wanted = (large + resize(change / 4 + 0.5, (48, 60)) * 4 - 2).clamp(0, 1)
    torch.testing.assert_close(reduced(large, **call).images, wanted, rtol=0, atol=1e-5)


def test_wrong_calls_are_refused():
    cases = {
        "got 14x5, 14x11 in one batch": {"image": [IMAGE[0], IMAGE[0, :, :5]]},
        "'jpg' is unknown": {"output_type": "jpg"},
        "got 1 generators; accepted: one torch.Generator, or a list of 2": {"generator": [torch.Generator()]},
        "got generator 5; accepted: one torch.Generator": {"generator": 5},
        "got 1001": {"num_inference_steps": 1001},
        "got 0; accepted: a whole number": {"num_inference_steps": 0},
        "eta: got 'a'; accepted: 0 to 1": {"eta": "a"},
        "tile is 127: accepted: at least 128": {"tile": 127},
        "seed: got 18446744073709551616; accepted: a whole number, 0 to 18446744073709551615": {"seed": 2**64},
    }
    refused(cases, lambda settings: make(RDDMNet("res", **SMALL))(**{"image": IMAGE, **settings}))


def test_the_network_for_use_by_its_task(home):
    """Its own schedule and objective: the pipeline goes the plain sampler's way."""
    with pytest.raises(ReproError, match=r"no checkpoint rddm-raindrop-use-s0 in .*`repro list`"):
        RDDMPipeline.shipped("raindrop")
    for config, variant in ((TASKS["lowlight"], "smres"), (TASKS["raindrop"], "smres"), (USE["raindrop"], "use")):
        name = f"rddm-{config.name}-{variant}-s0"
        save_checkpoint(home / "checkpoints" / name, shaken(RDDMNet("res", **SMALL), 0.05), {})
        scale = RDDMPipeline.shipped(config.name, variant).scheduler.schedule.sum_scale
        assert scale == learning_of(config, variant).schedule.sum_scale
    pipe, schedule = RDDMPipeline.shipped("raindrop"), learning_of(USE["raindrop"], "use").schedule
    x_T = process.start(Y, randn_tensor(Y.shape, generator=seeded(3)), schedule)
    x = sample(Sampler(schedule, "res").run(lambda x, t: output_of(pipe.unet, x, int(t[0]), Y, None, True), x_T, Y, 2))
    found = pipe(IMAGE, num_inference_steps=2, generator=seeded(3), output_type="pt").images
    torch.testing.assert_close(found, ((x + 1) / 2).clamp(0, 1), rtol=0, atol=1e-5)
    with pytest.raises(ReproError, match="'regression' does not start from the degraded image"):
        RDDMPipeline.shipped("raindrop", "regression")
