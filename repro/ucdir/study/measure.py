"""What notebook 04 measures, on whole held-out photographs: one function from (experiment, cell) to values.

Each test photograph is degraded once, keyed by its name; sampling noise is keyed by (seed, name). Everything is fp32. A
cell's `task` names the degradation; behind a dash stands what is varied: "lowlight-switch", "lowlight-seams".
"""

import copy
import hashlib
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from repro.data import pack
from repro.data.degradations import TASKS
from repro.data.files import equalised
from repro.data.images import to_model, to_unit
from repro.engine.checkpoint import DEVICE, load_checkpoint
from repro.engine.evaluation import Sample, Tolerance
from repro.engine.records import Values
from repro.engine.rng import KeyedNoise
from repro.metrics import features, protocols
from repro.ucdir import pipeline
from repro.ucdir.model import TRAINING, UCDIR, linear_levels
from repro.ucdir.pipeline import Tiles, scalars
from repro.ucdir.study.experiments import network_of, read, settings_of

TEST_SEED = 7  # of the test images' degradations
FIXED = {"jpeg": {"quality": 10}}  # as in the paper; the others are drawn for each photograph
IMAGE = ("lpips/alex-v0.1", "psnr/rgb", "ssim/rgb-wang", "niqe/y-skvideo")
KID, PATCH, SETS = "kid/efficientnet-lite0-patches128", 128, 3
COLOUR, SEAM, MOVED = "colour/mean-rgb01", "seam/ratio", "l1/unsplit-rgb01"
MACS, PARAMETERS = "macs/64x64", "parameters"
MANY, FEW = 27, 9  # photographs of a main table, and of what is varied
TOLERANCE = dict.fromkeys((*IMAGE, KID, COLOUR, SEAM, MOVED), Tolerance(absolute=2e-3, relative=5e-3))


def pairs(task: str, chosen: str, n: int, side: int) -> list[tuple[Tensor, str, Tensor, Tensor]]:
    """The first `n` held-out photographs: degraded (3, H, W) in [0, 1], name, strength (1,), clean."""
    settings, inputs, found = settings_of(chosen), None, []
    if chosen == "paper":
        ids, images, inputs = (getattr(read(task, "test"), part) for part in ("ids", "targets", "inputs"))
    else:
        ids, images = pack.photographs("test", side, settings.get("limit", 0))
    for i, name in enumerate(ids[:n]):
        clean, given, strength = images[i], inputs and inputs[i], torch.zeros(1)
        if given is None:
            noises = partial(KeyedNoise, TEST_SEED, [name])
            (given,), strength = TASKS[task].degrade(clean[None], noises, **FIXED.get(task, {}))
        found.append((given, name, strength, clean))
    return found


def sample(experiment: str, cell: Mapping[str, Any], chosen: str = "small") -> Sample:
    """How many photographs a cell is measured on, how many of them the check repeats, and their hash."""
    task, _, varied = str(cell.get("task", "")).partition("-")
    if experiment.startswith("cost-"):
        return Sample(1, 1, hashlib.sha256(b"").hexdigest())
    if chosen == "paper":
        files = read(task, "test")
        return Sample(files.size, 0, files.digest())
    settings = settings_of(chosen)
    n = min(FEW if varied else MANY, settings.get("limit", MANY))
    text = f"side {_side(cell, chosen)} n {n} seed {TEST_SEED} {FIXED.get(task, {})} {TASKS[task].law}"
    text += "".join(f"{photo.id} {pack.file_hash(photo.path)}" for photo in pack.photos("test")[:n])
    repeated = not varied or cell.get("steps", 0) <= 10  # every main row; of the variations, the short ones
    return Sample(n, int(repeated), hashlib.sha256(text.encode()).hexdigest())


def measure(experiment: str, cell: Mapping[str, Any], k: int | None, chosen: str = "small") -> dict[str, Values]:
    """One cell: metric name -> a value per photograph (KID: per third of them)."""
    if experiment.startswith("cost-"):
        return cost(experiment.removeprefix("cost-"))
    task, _, varied = str(cell["task"]).partition("-")
    n = k or sample(experiment, cell, chosen).n
    given, run = pairs(task, chosen, n, _side(cell, chosen)), method(experiment, task, cell)
    outputs, truths = [run(*one) for *one, _ in given], [truth for *_, truth in given]
    both = list(zip(outputs, truths, strict=True))
    if varied == "seams":
        tiles, whole = Tiles(cell["size"], cell["margin"]), method(experiment, task, {**cell, "split": "none"})
        moved = [(made - whole(*one)).abs().mean().item() for made, (*one, _) in zip(outputs, given, strict=True)]
        return {SEAM: [seam_energy(made[None], truth[None], tiles) for made, truth in both], MOVED: moved}
    found: dict[str, Values] = {protocol: [scored(protocol, *pair) for pair in both] for protocol in IMAGE}
    found[COLOUR] = [(made - truth).mean(dim=(1, 2)).abs().mean().item() for made, truth in both]
    if k is None and not varied and n >= SETS:
        found[KID] = kid(outputs, truths)
    return found


def _side(cell: Mapping[str, Any], chosen: str) -> int:  # of the photographs
    return (cell if chosen == "small" and "side" in cell else settings_of(chosen))["side"]


def method(experiment: str, task: str, cell: Mapping[str, Any]) -> Callable[[Tensor, str, Tensor], Tensor]:
    """What a row of a table does to an image: (degraded, name, strength) -> restored (3, H, W) in [0, 1]."""
    plain = {"input": lambda image: image, "formula": partial(formula, task=task), "equalised": equalised}
    if (baseline := plain.get(experiment.removeprefix("baseline-"))) is not None:
        return lambda image, name, strength: baseline(image)
    if cell.get("output") == "used":  # as `UCDIRPipeline` restores
        cell = {**cell, "steps": pipeline.STEPS, "start": pipeline.START, "tones": task in pipeline.TONED}
    model, steps = copy.deepcopy(load_checkpoint(experiment)).to(DEVICE), int(cell.get("steps", 20))
    settings: dict[str, Any] = {"steps": steps, "sampler": cell.get("sampler", pipeline.SAMPLER)}
    settings |= {name: cell[name] for name in ("start", "clip", "tones") if name in cell}
    if "levels" in cell:  # "spaced": a part of the training schedule; else the end of a linear schedule of betas
        end = cell["levels"]
        settings["levels"] = TRAINING.levels(steps) if end == "spaced" else linear_levels(steps, end)
    if cell.get("split", "none") != "none":
        settings["tiles" if cell["split"] == "inside" else "outside"] = Tiles(cell["size"], cell["margin"])

    @torch.no_grad()
    def run(image: Tensor, name: str, strength: Tensor) -> Tensor:
        x = to_model(image)[None].to(DEVICE)
        given = scalars(model, task, strength.item() if cell.get("strength") == "known" else None)
        if cell.get("output") == "initial":
            made = pipeline.first_estimate(model, x, given.get("task"), tones=cell.get("tones", False))
        elif "regression" in experiment:
            made, _ = model(x, **given)
        else:
            noise = KeyedNoise(int(cell.get("seed", 0)), [name], "sample", DEVICE)
            made = pipeline.restore(model, x, noise, **settings, **given)
        return to_unit(made)[0].cpu()

    return run


def formula(image: Tensor, task: str) -> Tensor:
    """A restoration without learning, (3, H, W) in [0, 1], its few numbers fitted on training photographs."""
    if task == "lowlight":  # a gain that brings each channel's mean to theirs: exposure and colour cast at once
        aim = torch.stack([x.mean(dim=(1, 2)) for x in pack.photographs("train", 256)[1]]).mean(dim=0)
        return (image * (aim / image.mean(dim=(1, 2)).clamp(min=1e-3))[:, None, None]).clamp(0, 1)
    if task == "deblur":  # an unsharp mask
        from torchvision.transforms.functional import gaussian_blur

        return (image + 0.8 * (image - gaussian_blur(image, 13, 2.0))).clamp(0, 1)
    # JPEG: a bilateral filter over 7 x 7 pixels
    patches = F.unfold(F.pad(image[None], (3, 3, 3, 3), mode="reflect"), 7).unflatten(1, (3, 49))[0]  # (3, 49, H W)
    y, x = torch.meshgrid(torch.arange(-3.0, 4), torch.arange(-3.0, 4), indexing="ij")
    far = ((y**2 + x**2) / (2 * 1.5**2)).flatten()[:, None]
    weight = torch.exp(-far - (patches - image.flatten(1)[:, None]).square().sum(dim=0) / (2 * 0.06**2))
    return ((patches * weight).sum(dim=1) / weight.sum(dim=0)).unflatten(1, image.shape[1:])


def scored(protocol: str, image: Tensor, truth: Tensor) -> float:
    """One score of an image; 0 for smoke's images, which are too small for some."""
    if min(image.shape[-2:]) < protocols.PROTOCOLS[protocol].smallest:
        return 0.0
    return protocols.score(protocol, image[None], None if protocol.startswith("niqe") else truth[None]).item()


def kid(outputs: list[Tensor], clean: list[Tensor]) -> list[float]:
    """KID of 128-pixel patches against those of the clean photographs, one value for each third of them."""

    def embedded(images: list[Tensor]) -> Tensor:
        tiles = [x.unfold(1, PATCH, PATCH).unfold(2, PATCH, PATCH).permute(1, 2, 0, 3, 4).flatten(0, 1) for x in images]
        return features.extract(features.efficientnet_lite0(), torch.cat(tiles))

    thirds = [(embedded(outputs[part::SETS]), embedded(clean[part::SETS])) for part in range(SETS)]
    return [features.kid(a, b, min(len(a), len(b)), 1, seed=0) for a, b in thirds]


def cost(variant: str) -> dict[str, float]:
    """MACs of the diffusion network at one step on 64 x 64 pixels (torch's own counter), and its parameters."""
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"):
        model = UCDIR(**({} if variant == "published" else network_of("lowlight", variant))).eval()
        x, level = torch.zeros(1, 3, 64, 64), torch.zeros(1)
        with FlopCounterMode(display=False) as counter:
            model.denoise(x, x, level, x, **scalars(model, "lowlight"))
    return {MACS: counter.get_total_flops() / 2, PARAMETERS: sum(p.numel() for p in model.unet.parameters())}


def seam_energy(image: Tensor, truth: Tensor, tiles: Tiles) -> float:
    """How much rougher the error (B, 3, H, W) is across the lines where kept tiles meet than elsewhere; 1: no seam.

    Mean absolute difference between neighbours on both sides of a line, over that 5 pixels beside it, in like content.
    """
    lines, beside = [], []
    for axis in (-2, -1):
        jump = (image - truth).diff(dim=axis).abs()
        for at in [first - 1 for _, first, _ in tiles.along(image.shape[axis])[1:]]:
            lines.append(jump.narrow(axis, at, 1).mean())
            beside += [jump.narrow(axis, at + d, 1).mean() for d in (-5, 5) if 0 <= at + d < jump.shape[axis]]
    return (torch.stack(lines).mean() / torch.stack(beside).mean()).item()
