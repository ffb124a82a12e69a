"""What notebook 03 measures: whole held-out photographs, sets of generated images, and what claims R4 and R6 compare.

Each test photograph is degraded once, keyed by its name; noise is keyed by (seed, name). Everything runs in fp32.

At paper scale the report's table is measured in the cells of the small profile's: LOL for low light, RainDrop, CelebA
for generation. A restoration's input is squeezed to a square and the ground truth resized to the output; a "full-size"
cell is the same network on the images' own size. Protocol names say the rest (Y or RGB, rounded or not).
"""

import copy
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor, nn

from repro.data import pack
from repro.data.files import equalised
from repro.data.images import to_model, to_unit
from repro.data.pack import photographs
from repro.ddpm import samplers
from repro.ddpm.process import linear, model_fn, prediction_part
from repro.engine.checkpoint import DEVICE, find, load_checkpoint, trained
from repro.engine.evaluation import Sample, Tolerance
from repro.engine.records import Values
from repro.engine.rng import KeyedNoise
from repro.metrics import features, protocols
from repro.metrics.features import ALIASES_FASHION, CLASSIFIER, FID, IS, KID, NEAREST, SetMetrics, replicated
from repro.metrics.pixel import imresize
from repro.rddm.pipeline import output_of
from repro.rddm.process import RDDMSchedule, by_config, indi, start
from repro.rddm.samplers import Net, Sampler, Step, matched
from repro.rddm.study import experiments as own
from repro.rddm.study.experiments import LAWS, PAPER, PROFILES, TaskConfig, learning_of, name_of

DDPM, LINEAR = "ddpm-fashion-linear-s0", linear()  # the network of notebook 01 and its schedule
PUBLISHED = ("psnr/y-uint8", "ssim/y-uint8-wang", "psnr/rgb", "ssim/rgb-wang", "lpips/alex-v0.1")  # at paper scale
PROTOCOLS = ("psnr/rgb", "ssim/rgb-wang", "lpips/alex-v0.1", "psnr/y", "ssim/y-wang")
SPREAD = "std/rgb01"  # standard deviation over noise seeds of a pixel's value in [0, 1], mean over the image
DIFFERENCE, MEAN_DIFFERENCE = "max_abs_difference", "mean_abs_difference"
# Photographs measured as they come, and restored from several noises; samples whose pixels are compared.
FULL_SIZE = DIVERSE = COMPARED = 8
QUICK = 10  # most steps of what the smoke profile measures
STARTS = (990, 950, 900, 800, 700)  # where SM-N may start: at T - 1 = 999 it divides by 1 - u_T = 0
BATCH = 250  # generated at once at paper scale
ALIASES = {"psnr/y-uint8": "psnr/y", "ssim/y-uint8-wang": "ssim/y-wang", **ALIASES_FASHION}  # of the paper profile
# Where two samplers are said to agree, or the number is small, the usual tolerance would let it be anything.
TOLERANCE = {
    **dict.fromkeys((*PROTOCOLS, FID, KID, IS, NEAREST), Tolerance(absolute=2e-3, relative=5e-3)),
    SPREAD: Tolerance(absolute=2e-4, relative=1e-2),
    DIFFERENCE: Tolerance(absolute=1e-5, relative=0.05),
    MEAN_DIFFERENCE: Tolerance(absolute=1e-6, relative=0.05),
}


def sample(experiment: str, cell: Mapping[str, Any], chosen: str) -> Sample | None:
    """How many images a cell is measured on; None where it is not measured in the chosen profile."""
    if chosen == "paper":
        found = published(experiment, cell)
        given = found and own.read(found[0], "test", found[1])
        return found and Sample(n := found[0].n or given.size, min(found[0].k, n), given.digest())
    if (name := cell.get("task")) is None:  # claim R6's identity
        return Sample(1, 1, hashlib.sha256(b"").hexdigest())
    if chosen == "smoke" and (cell.get("steps", 0) > QUICK or name.endswith(("full-size", "wide"))):
        return None
    task = _task(name, chosen)
    if task.degradation == "none":
        n, k = (COMPARED, 2) if name == "equality" else (task.n, task.k)
        return Sample(n, k, pack.file_hash(pack.PACK / pack.FASHION)) if trained(CLASSIFIER) else None
    if name.endswith("full-size"):
        return Sample(FULL_SIZE, 0, _photo_hash(task.degradation, 0, FULL_SIZE))
    n = task.limit or len(pack.photos("test"))
    n = min(DIVERSE, n) if name.endswith("diversity") else n
    return Sample(n, task.k, _photo_hash(task.degradation, cell.get("side", task.side), task.limit))


def measure(experiment: str, cell: Mapping[str, Any], k: int | None, chosen: str = "small") -> Mapping[str, Values]:
    """One cell of the grid on the first `k` images (None: all)."""
    if chosen == "paper":
        return _at_paper_scale(experiment, cell, k)
    if (name := cell.get("task")) is None:
        return {DIFFERENCE: indi_gap()}
    if name == "equality":
        x_T = samplers.start_noise(range(k or COMPARED), (1, 28, 28))
        settings = {"clip": cell["clip"], "dtype": getattr(torch, cell["dtype"])}
        *_, last = gaps(load_checkpoint(DDPM), x_T, cell["steps"], cell["rule"], cell["with"], **settings)
        apart = last.flatten(1)
        return {DIFFERENCE: apart.amax(dim=1).tolist(), MEAN_DIFFERENCE: apart.mean(dim=1).tolist()}
    task = _task(name, chosen)
    if name == "transfer":
        steps = partial(transferred, load_checkpoint(DDPM), steps=cell["steps"], rule=cell["rule"], clip=cell["clip"])
        drawn = lambda ids: samplers.sample(steps(samplers.start_noise(ids, (1, 28, 28))))  # noqa: E731
        return replicated(drawn, task.n, task.replicates, k)
    pairs = partial(test_pairs, task.degradation, cell.get("side", task.side))
    if experiment.startswith("baseline-"):
        run = BASELINES[task.name][experiment.removeprefix("baseline-")]
        return scored(pairs(k or task.limit), lambda x, _: run(x))
    learning = learning_of(task, find(experiment).variant)
    net, settings = switched(Net(load_checkpoint(experiment), learning, cell["steps"]), cell)
    if task.degradation == "none":
        return replicated(lambda ids: net.generate(ids, **settings), task.n, task.replicates, k)
    if name.endswith("diversity"):  # how far restorations of one image under different noise lie apart (claim R6)
        spread = []
        for i, x, _ in pairs(k or min(DIVERSE, task.limit or DIVERSE)):
            runs = [net.restore(to_model(x)[None], [i], seed=seed, eta=cell["eta"]) for seed in own.SEEDS[chosen]]
            spread.append(to_unit(torch.cat(runs)).std(dim=0).mean().item())
        return {SPREAD: spread}
    some = test_pairs(task.degradation, 0, k or FULL_SIZE) if name.endswith("full-size") else pairs(k or task.limit)
    return scored(some, lambda x, name: to_unit(net.restore(to_model(x)[None], [name], **settings))[0])


def _task(cell: str, chosen: str) -> TaskConfig:
    """The configuration that a cell's `task` is measured in; behind a dash stands what is varied."""
    name = cell.split("-")[0]
    if cell.endswith("wide"):
        return own.USE[name]
    return PROFILES[chosen]["fashion" if name in ("generation", "transfer", "equality") else name]


def switched(net: Net, cell: Mapping[str, Any]) -> tuple[Net, dict[str, Any]]:
    """Choices that the report leaves to the code, one changed at a time (claim R2): network, settings of its methods.

    "converted": a generator on the coefficients converted from DDPM, given either that schedule's timestep, as when
    coefficients are "readjusted", or the one at which it was trained on such states.
    """
    switch, learning = cell.get("switch"), net.learning
    if switch == "converted":
        converted, model = replace(learning, schedule=by_config(**own.SCHEDULES["converted"])), net.network
        if cell["told"] != "own":
            model = matched(model_fn(model), learning.schedule, converted.schedule)
        return Net(model, converted, net.steps), {}
    if head := cell.get("sample_as"):
        both, at = net.network, int(head == "noise")  # SM-Res or SM-N without retraining
        one = lambda x, t, cond: both(x, t, cond).sample.chunk(2, dim=1)[at]  # noqa: E731
        net = Net(one, replace(learning, objective=head), net.steps)
    if tile := cell.get("tile"):  # as `RDDMPipeline` restores
        see = partial(output_of, net.network, tile=tile, mirrored=cell.get("mirrored", False))
        net = replace(net, network=lambda x, t, cond: see(x, int(t[0]), cond))
    settings = {"clip ±1": {"clip": 1.0}, "start noise 0.1": {"sum_scale": 0.01}}.get(switch, {})
    return net, settings | ({"start": cell["start"]} if "start" in cell else {})


@lru_cache(maxsize=8)
def test_pairs(degradation: str, side: int, limit: int = 0) -> tuple[tuple[str, Tensor, Tensor], ...]:
    """(id, degraded, clean) of the held-out photographs, images (3, H, W) in [0, 1]."""
    ids, images = photographs("test", side, limit)
    return tuple((i, own.degraded(degradation, x, i), x) for i, x in zip(ids, images, strict=True))


@lru_cache(maxsize=8)
def _photo_hash(degradation: str, side: int, limit: int) -> str:
    """Of the test photographs' files, the size they are brought to, the degradation's law and its seed."""
    law = f"{degradation} {LAWS[degradation]}"
    total = hashlib.sha256(f"side {side} limit {limit} seed {own.TEST_SEED} {law}".encode())
    for photo in pack.photos("test")[: limit or None]:
        total.update(f"{photo.id} {pack.file_hash(photo.path)}".encode())
    return total.hexdigest()


def scored(
    pairs: Iterable[tuple[str, Tensor, Tensor]], method: Callable[[Tensor, str], Tensor], names: Sequence[str] = ()
) -> dict[str, list[float]]:
    """The values of protocols (or of `PROTOCOLS`), one per image, of `method(degraded (3, H, W) in [0, 1], id)`."""
    found: dict[str, list[float]] = {name: [] for name in names or PROTOCOLS}
    for name, given, clean in pairs:
        output = method(given, name)[None]
        for protocol, values in found.items():
            values += protocols.score(protocol, output, clean[None]).tolist()
    return found


RULES = {
    "ddim": "DDIM",
    "ddim-rederived": "DDIM, noise re-derived",
    "eq12": "RDDM, Eq. 12",
    "compose": "RDDM, compose",
    "rederive": "RDDM, rederive",
}


def transferred(network: nn.Module, x_T: Tensor, steps: int, rule: str, clip: bool) -> Iterator[Any]:
    """Steps of notebook 01's DDPM sampled from x_T by one of `RULES`, without retraining, at diffusers' timesteps and
    eta = 0. "ddim" keeps the network's noise; "ddim-rederived" makes it again from the cut image (diffusers'
    use_clipped_model_output)."""
    model = model_fn(network)
    if rule.startswith("ddim"):
        return samplers.ddim(model, x_T, LINEAR, steps, clip=clip, eps_from_clipped=rule == "ddim-rederived")
    sampler = Sampler(RDDMSchedule.from_ddpm(LINEAR), "noise", clip=2.0 if clip else None, rule=rule)
    noise_of = lambda x, t: prediction_part(model(x, t), x)  # noqa: E731
    return sampler.run(noise_of, x_T, torch.zeros_like(x_T), samplers.spaced(LINEAR.T, steps))


def gaps(
    network: nn.Module, x_T: Tensor, steps: int, rule: str, other: str, *, clip: bool, dtype: torch.dtype
) -> list[Tensor]:
    """How far two rules are apart after each step from one start, (B, …) a step, for images in [-1, 1]."""
    # A copy, since the loaded one is shared; cast by torch, since diffusers' own cast warns of what is not there.
    network = nn.Module.to(copy.deepcopy(network), dtype)
    ours, theirs = (transferred(network, x_T.to(dtype), steps, each, clip) for each in (rule, other))
    return [(a.x - b.x).abs() for a, b in zip(ours, theirs, strict=True)]


def indi_gap(steps: int = 10) -> float:
    """Largest difference of SM-Res from InDI along one run, both with the same arbitrary predictor, float64. A step of
    InDI from time t to s is x_s = (t - s) / t x0 + (1 - (t - s) / t) x_t."""
    schedule = indi()
    y, z = KeyedNoise(0, [0, 1], "oracle/indi").normal((2, 3, 8, 8)).double().unbind(1)

    def predict(x: Tensor, t: Tensor) -> Tensor:  # some nonlinear guess of the clean image
        return torch.tanh(0.7 * x.roll(1, -1) - 0.2 * y + t.double().view(-1, 1, 1, 1) / 1000)

    x, worst = start(y, z, schedule), 0.0
    for step in Sampler(schedule, "res", clip=None).run(lambda x, t: y - predict(x, t), x, y, steps):
        t, s = schedule.levels(step.t)[0], schedule.levels(step.t_prev)[0]
        x = (t - s) / t * predict(x, torch.full((len(x),), step.t)) + (1 - (t - s) / t) * x
        worst = max(worst, (x - step.x).abs().max().item())
    return worst


def path(steps: Iterable[Step], x0: Tensor, y: Tensor, eps: Tensor) -> list[tuple[float, float, float]]:
    """(a, b, rest) of every state of a run, the start first: least squares of x = x0 + a r + b eps + remainder, and the
    remainder's root mean square."""
    basis = torch.stack([(y - x0).flatten(), eps.flatten()], dim=1).double()  # (N, 2)
    run, places = list(steps), []
    for x in (run[0].x_t, *(step.x for step in run)):
        offset = (x - x0).flatten().double()
        a, b = solution = torch.linalg.lstsq(basis, offset).solution  # (2,)
        places.append((a.item(), b.item(), (offset - basis @ solution).square().mean().sqrt().item()))
    return places


def published(experiment: str, cell: Mapping[str, Any]) -> tuple[TaskConfig, bool] | None:
    """The published task of a cell, and whether images keep their own size; None where it is not measured."""
    name = str(cell.get("task", ""))
    plain = name.removesuffix("-full-size")
    for task in PAPER.values():
        ours = [name_of(task.name, variant, 0, "paper") for variant in task.variants]
        if task.cells == plain and experiment in (*ours, "baseline-input") and any(map(trained, ours)):
            switched = "switch" in cell or cell.get("eta") or cell.get("steps", task.steps) != task.steps
            return None if switched else (task, plain != name)
    return None


def _at_paper_scale(experiment: str, cell: Mapping[str, Any], k: int | None) -> Mapping[str, Values]:
    """A restoration scored image by image, a generator by FID, KID and IS against the test split; all cut to ±1."""
    task, full = published(experiment, cell)  # type: ignore[misc]
    given, run = own.read(task, "test", full), lambda x, name: x
    if experiment != "baseline-input":
        network = copy.deepcopy(load_checkpoint(experiment)).to(DEVICE)
        net = Net(network, learning_of(task, find(experiment).variant), task.steps)
        run = lambda x, name: to_unit(net.restore(to_model(x)[None].to(DEVICE), [name], clip=1.0))[0].cpu()  # noqa: E731
    if task.n:
        reference = to_model(torch.stack([given.targets[i] for i in range(given.size)]))
        score = SetMetrics(lambda: features.inception(device=DEVICE), reference, BATCH)
        settings = {"shape": (3, task.side, task.side), "batch": BATCH, "device": DEVICE, "clip": 1.0}
        return score(net.generate(range(k or task.n), **settings))
    clean = own.read(task, "test", full=True).targets

    def pair(i: int) -> tuple[str, Tensor, Tensor]:
        x, target = given.inputs[i], clean[i]
        same = target.shape == x.shape
        return given.ids[i], x, target if same else imresize(target, tuple(x.shape[-2:])).float()

    return scored(map(pair, range(min(k or given.size, given.size))), run, PUBLISHED)


# -- what no learning reaches: its few numbers are fitted on training photographs, under other random numbers ----------

# Of gains 1.5, 1.6, …, 8 and gammas 0.4, 0.42, …, 1.6 the pair with the smallest squared error of (gain x)^gamma.
GAIN, GAMMA = 2.1, 0.56
MEAN = (0.49238363, 0.49733618, 0.42235443)  # red, green and blue of the clean training photographs
# Window of the median, threshold on the grey difference: of 24 such pairs with dilations (windows 9, 15, 25; thresholds
# 0.06 to 0.20; dilations 0, 2) the one that inpaints six training photographs with the smallest squared error.
WINDOW, THRESHOLD = 9, 0.10


def mean_gain(image: Tensor) -> Tensor:
    """Each channel's mean brought to that of the training images by a gain: exposure and colour cast at once."""
    return (image * (torch.tensor(MEAN) / image.mean(dim=(1, 2)).clamp(min=1e-3))[:, None, None]).clamp(0, 1)


def median(image: Tensor, size: tuple[int, ...] = (1, 3, 3)) -> Tensor:
    """Median filter, by default of each channel; 3 pixels are better than 5 on training images."""
    from scipy.ndimage import median_filter

    return torch.from_numpy(median_filter(image.numpy(), size=size, mode="reflect"))


def inpainted(image: Tensor) -> Tensor:
    """Biharmonic inpainting (Damelin and Hoang 2018, scikit-image) of what thresholding takes for drops: a pixel is a
    drop's where grey differs from its median over a window wider than a drop."""
    from skimage.restoration import inpaint_biharmonic

    grey = torch.from_numpy(image.numpy().mean(axis=0))
    mask = ((grey - median(grey, (WINDOW, WINDOW))).abs() > THRESHOLD).numpy()
    filled = inpaint_biharmonic(image.permute(1, 2, 0).numpy(), mask, split_into_regions=True, channel_axis=-1)
    return torch.from_numpy(filled).permute(2, 0, 1).float().clamp(0, 1)


BASELINES: dict[str, dict[str, Callable[[Tensor], Tensor]]] = {
    "lowlight": {
        "input": lambda x: x,
        "gain-gamma": lambda x: (GAIN * x).clamp(0, 1) ** GAMMA,  # one gain and one gamma for all images
        "mean-gain": mean_gain,
        "equalised": equalised,
    },
    "raindrop": {"input": lambda x: x, "median": median, "inpainted": inpainted},
}
