"""What notebook 04 measures, on whole held-out photographs: one function from (experiment, cell) to values.

Each test photograph is degraded once, keyed by its name; sampling noise is keyed by (seed, name). Everything is fp32. A
cell's `task` names the degradation; behind a dash stands what is varied: "lowlight-switch", "lowlight-seams".
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from repro.data import pack
from repro.data.degradations import TASKS
from repro.data.images import to_model, to_unit
from repro.engine.checkpoint import load_checkpoint
from repro.engine.evaluation import Tolerance
from repro.engine.records import Values
from repro.engine.rng import KeyedNoise
from repro.engine.study import Sample
from repro.metrics import protocols
from repro.ucdir import pipeline
from repro.ucdir.model import UCDIR
from repro.ucdir.noise import TRAINING, linear_levels
from repro.ucdir.patches import Tiles, seam_energy
from repro.ucdir.study import formulas
from repro.ucdir.study.experiments import SPEC, network_of, photographs, profile

TEST_SEED = 7  # of the test pictures' degradations
FIXED = {"jpeg": {"quality": 10}}  # as in the paper; the others are drawn for each photograph
IMAGE = ("lpips/alex-v0.1", "psnr/rgb", "ssim/rgb-wang", "niqe/y-skvideo")
KID, PATCH, SETS = "kid/efficientnet-lite0-patches128", 128, 3
COLOUR, SEAM, MOVED = "colour/mean-rgb01", "seam/ratio", "l1/unsplit-rgb01"
MACS, PARAMETERS = "macs/64x64", "parameters"
MANY, FEW = 27, 9  # photographs of a main table, and of what is varied
TOLERANCE = {
    **dict.fromkeys((*IMAGE, KID, COLOUR, SEAM, MOVED), Tolerance(absolute=2e-3, relative=5e-3)),
    **dict.fromkeys((MACS, PARAMETERS), Tolerance()),
}


def degraded(task: str, image: Tensor, name: str) -> tuple[Tensor, Tensor]:
    """(3, H, W) in [0, 1] -> the test set's degraded image and its strength (1,)."""
    given, strength = TASKS[task].degrade(
        image[None], lambda purpose: KeyedNoise(TEST_SEED, [name], purpose), **FIXED.get(task, {})
    )
    return given[0], strength


@lru_cache(maxsize=4)
def pairs(task: str, chosen: str = "small", split: str = "test") -> tuple[tuple[str, Tensor, Tensor, Tensor], ...]:
    """(name, degraded, strength, clean) of the held-out photographs."""
    settings = profile(chosen)
    names, images = photographs(split, settings["side"], settings.get("limit", 0))
    return tuple((n, *degraded(task, x, n), x) for n, x in zip(names, images, strict=True))


def sample(experiment: str, cell: Mapping[str, Any], chosen: str = "small") -> Sample:
    """How many photographs a cell is measured on, how many of them the check repeats, and their hash."""
    task, _, varied = str(cell.get("task", "")).partition("-")
    if experiment.startswith("cost-"):
        return Sample(1, 1, hashlib.sha256(b"").hexdigest())
    if chosen == "paper":
        from repro.ucdir.study import paper

        return paper.sample(task)
    settings = profile(chosen)
    n = min(FEW if varied else MANY, settings.get("limit", MANY))
    text = f"side {settings['side']} n {n} seed {TEST_SEED} {FIXED.get(task, {})} {TASKS[task].law}"
    found = hashlib.sha256(text.encode())
    for photo in pack.photos("test")[:n]:
        found.update(f"{photo.id} {pack.file_hash(photo.path)}".encode())
    repeated = not varied or cell.get("steps", 0) <= 10  # every main row; of the variations, the short ones
    return Sample(n, int(repeated), found.hexdigest())


def measure(experiment: str, cell: Mapping[str, Any], k: int | None, chosen: str = "small") -> dict[str, Values]:
    """One cell: metric name -> a value per photograph (KID: per third of them)."""
    if experiment.startswith("cost-"):
        return cost(experiment.removeprefix("cost-"))
    task, _, varied = str(cell["task"]).partition("-")
    n = k or sample(experiment, cell, chosen).n
    if chosen == "paper":
        from repro.ucdir.study import paper

        tested = paper.pairs(task, n)
    else:
        tested = pairs(task, chosen)[:n]
    run = method(experiment, task, cell)
    if varied == "seams":
        return seams(experiment, task, cell, tested)
    found: dict[str, list[float]] = {name: [] for name in (*IMAGE, COLOUR)}
    outputs = []
    for name, given, strength, clean in tested:
        output = run(given, name, strength)[None]
        outputs.append(output[0])
        for protocol in IMAGE:
            if min(output.shape[-2:]) < protocols.protocol(protocol).smallest:  # smoke's small pictures
                found[protocol].append(0.0)
                continue
            reference = () if protocol.startswith("niqe") else (clean[None],)
            found[protocol] += protocols.score(protocol, output, *reference).tolist()
        found[COLOUR].append((output[0] - clean).mean(dim=(1, 2)).abs().mean().item())
    if k is None and not varied and len(outputs) >= SETS:
        found[KID] = kid(outputs, [clean for *_, clean in tested])
    return dict(found)


Method = Callable[[Tensor, str, Tensor], Tensor]  # (degraded (3, H, W) in [0, 1], name, strength) -> the same


def method(experiment: str, task: str, cell: Mapping[str, Any]) -> Method:
    """What a row of a table does to an image."""
    if not experiment.startswith("ucdir-"):
        return lambda image, name, strength: formulas.FORMULAS[experiment.removeprefix("baseline-")](image, task)
    model = network(experiment)
    settings = sampling(cell)

    def run(image: Tensor, name: str, strength: Tensor) -> Tensor:
        x = to_model(image)[None]
        known = scalars(model, task, strength if cell.get("strength") == "known" else None)
        if cell.get("output") == "initial":
            with torch.no_grad():
                made = model.predictor(x, task=known.get("task")).clamp(-1, 1)
        elif "regression" in experiment:
            made = pipeline.regress(model, x, **known)
        else:
            noise = KeyedNoise(int(cell.get("seed", 0)), [name], "sample")
            made = pipeline.restore(model, x, noise, **settings, **known)
        return to_unit(made)[0]

    return run


def sampling(cell: Mapping[str, Any]) -> dict[str, Any]:
    """A cell's settings of the sampler, as `pipeline.restore` takes them."""
    steps = int(cell.get("steps", 20))
    made: dict[str, Any] = {"steps": steps, "sampler": cell.get("sampler", pipeline.SAMPLER)}
    if "start" in cell:
        made["start"] = float(cell["start"])
    if "clip" in cell:
        made["clip"] = float(cell["clip"]) or None
    if "levels" in cell:  # "spaced": a part of the training schedule; else the end of a linear schedule of betas
        made["levels"] = TRAINING.levels(steps) if cell["levels"] == "spaced" else linear_levels(steps, cell["levels"])
    if cell.get("split", "none") != "none":
        tiles = Tiles(int(cell["size"]), int(cell["margin"]))
        made["tiles" if cell["split"] == "inside" else "outside"] = tiles
    return made


@lru_cache(maxsize=4)
def network(experiment: str) -> UCDIR:
    """The trained network of that name, from checkpoints/ or runs/."""
    return load_checkpoint(experiment)


def scalars(model: UCDIR, task: str, strength: Tensor | None = None) -> dict[str, Tensor]:
    """Task and strength, for a network that takes them; None: a strength that nobody knows."""
    if not model.unet.tasks:
        return {}
    strength = torch.full((1,), torch.nan) if strength is None else strength
    return {"task": torch.tensor([model.unet.tasks.index(task)]), "strength": strength}


def seams(experiment: str, task: str, cell: Mapping[str, Any], tested: Any) -> dict[str, list[float]]:
    """Seam energy at the borders of the tiles, and how far the image is from the one made in one piece."""
    tiles = Tiles(int(cell["size"]), int(cell["margin"]))
    split, whole = method(experiment, task, cell), method(experiment, task, {**cell, "split": "none"})
    found: dict[str, list[float]] = {SEAM: [], MOVED: []}
    for name, given, strength, clean in tested:
        made = split(given, name, strength)
        found[SEAM].append(seam_energy(made[None], clean[None], tiles))
        found[MOVED].append((made - whole(given, name, strength)).abs().mean().item())
    return found


def kid(outputs: list[Tensor], clean: list[Tensor]) -> list[float]:
    """KID of 128-pixel patches against those of the clean photographs, one value for each third of them."""
    from repro.metrics import distribution, features

    net = features.efficientnet_lite0()

    def embedded(images: list[Tensor]) -> Tensor:
        tiles = [x.unfold(1, PATCH, PATCH).unfold(2, PATCH, PATCH).permute(1, 2, 0, 3, 4).flatten(0, 1) for x in images]
        return features.extract(net, torch.cat(tiles))

    values = []
    for part in range(SETS):
        a, b = embedded(outputs[part::SETS]), embedded(clean[part::SETS])
        values.append(distribution.kid(a, b, min(len(a), len(b)), 1, seed=0)[0])
    return values


def cost(variant: str) -> dict[str, float]:
    """MACs of the diffusion network at one step on 64 x 64 pixels (torch's own counter), and its parameters."""
    from torch.utils.flop_counter import FlopCounterMode

    changes = {} if variant == "published" else network_of("lowlight", variant)
    with torch.device("meta"):
        model = UCDIR(**changes).eval()
        x, level = torch.zeros(1, 3, 64, 64), torch.zeros(1)
        with FlopCounterMode(display=False) as counter:
            model.denoise(x, x, level, x, **scalars(model, "lowlight", level))
    return {MACS: counter.get_total_flops() / 2, PARAMETERS: sum(p.numel() for p in model.unet.parameters())}


def variants() -> list[str]:
    """The ablations of Table 4, ours first."""
    return [v for v in SPEC["variant"] if v.startswith("short")]
