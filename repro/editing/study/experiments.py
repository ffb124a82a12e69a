"""The profiles of notebook 02 and its trained networks, both listed in `experiments.toml`: the autoencoder, the editing
model, its baselines and ablations."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from repro.data.datasets import home
from repro.ddpm.process import Kind, Schedule, by_name
from repro.editing.autoencoder import Autoencoder, AutoencoderTask
from repro.editing.effects import TargetRules
from repro.editing.model import EditingNet, EditLoss, EditTask
from repro.editing.sampling import SCHEDULE, Editor
from repro.editing.study import benchmark
from repro.editing.study.benchmark import BENCH, TINY, Bench
from repro.editing.study.paper import LDM, Pretrained, Reds
from repro.editing.study.pix2pix import Pix2Pix, Pix2PixTask
from repro.engine.checkpoint import Experiment, load_checkpoint, weights_hash
from repro.engine.train import Recipe, Task
from repro.paths import read_toml

_SPEC = read_toml(Path(__file__).with_name("experiments.toml"))
_BENCHES = {"bench": BENCH, "tiny": TINY, "paper": replace(BENCH, crop=(256, 256, 256), rules=TargetRules())}


@dataclass(frozen=True)
class EditingConfig:
    """One profile.

    `bench`        the benchmark's build; where `data` is "reds", of it the side of a crop and the rules of targets.
    `autoencoder`, `network`, `pix2pix`  arguments of `Autoencoder`, `EditingNet` (that all variants share), `Pix2Pix`,
                   each with its recipe; `recipe` is the network's, of which a variant may take a share.
    `steps`        of DDIM; on validation photographs 3 to 5 are best, more leave more noise behind.
    `prediction`   of the networks, but for variants that have their own.
    `pretrained`   where network and autoencoder come from; None: they are ours.
    `variants`     those that are trained, and "pix2pix"; () is all of them. Where the networks are pretrained, each
                   with one seed and on all images.
    """

    name: str
    bench: Bench
    network: dict[str, Any]
    recipe: Recipe
    pix2pix_recipe: Recipe
    pix2pix: dict[str, Any] = field(default_factory=dict)
    autoencoder: dict[str, Any] = field(default_factory=dict)
    autoencoder_recipe: Recipe | None = None
    steps: int = 5
    data: str = "photos"
    # The paper predicts the noise. At our size and budget that leaves the images noisy: an error in the noise is
    # magnified up to 14-fold in the sample at the first steps. The ablation "epsilon" measures the paper's reading.
    prediction: Kind = "v_prediction"
    pretrained: Pretrained | None = None
    variants: tuple[str, ...] = ()

    @property
    def source(self) -> Bench | Reds:
        """What train and test crops are taken from."""
        if self.data == "photos":
            return self.bench
        return Reds(home("reds"), self.bench.crop[2], self.bench.rules, self.bench.version)


def _read(name: str) -> EditingConfig:
    """A profile of `experiments.toml`; pix2pix's recipe is the network's but for what it names."""
    spec = _SPEC["profile"][name]
    recipes = {key: value for key, value in spec.items() if key.endswith("recipe")}
    recipes["pix2pix_recipe"] = spec["recipe"] | spec["pix2pix_recipe"]
    made = {key: Recipe(**r | {"betas": tuple(r.get("betas", Recipe.betas))}) for key, r in recipes.items()}
    made |= {"bench": _BENCHES[spec["bench"]]}
    if name == "paper":
        made |= {"pretrained": LDM, "network": LDM.network | spec["network"]}
    return EditingConfig(**(spec | made), name=name)


SMALL, SMOKE, PAPER = map(_read, ("small", "smoke", "paper"))
PROFILES = {c.name: c for c in (SMOKE, SMALL, PAPER)}


@dataclass(frozen=True)
class Variant:
    """One way to build and train the editing network; `experiments.toml` lists them.

    `network`, `learning`, `schedule`  replace the profile's and the defaults.
    `share`                of the profile's images that it is trained on; compare equal shares only.
    `ships`                whether seed 0's weights ship; the rest are records only.
    """

    label: str
    network: Mapping[str, Any] = field(default_factory=dict)
    learning: Mapping[str, Any] = field(default_factory=dict)
    schedule: Mapping[str, Any] = field(default_factory=dict)
    share: float = 1.0
    ships: bool = False
    seeds: Sequence[int] = (0,)


VARIANTS = {name: Variant(**about) for name, about in _SPEC["variant"].items()}
ABLATIONS = tuple(name for name, variant in VARIANTS.items() if variant.share == 0.16)
MASKED, LOW, TAUGHT, LONGER = "mask-all", "low-times", "taught", "taught-long"


def name_of(variant: str, seed: int = 0, profile: str = "small") -> str:
    """An experiment's name, e.g. "editing-edits-mult-s0"."""
    return f"editing-{'edits' if profile == 'small' else profile}-{variant}-s{seed}"


def autoencoder_name(profile: str = "small") -> str:
    """The autoencoder's experiment."""
    return name_of("autoencoder-vq", 0, profile).replace("-edits-", "-")


def network_of(config: EditingConfig, variant: str) -> dict[str, Any]:
    """Arguments of a variant's `EditingNet`; a pretrained network has its own context and widths."""
    own = {k: v for k, v in VARIANTS[variant].network.items() if not (config.pretrained and k in ("context", "widths"))}
    return {**config.network, **own}


def build_network(config: EditingConfig, variant: str) -> EditingNet:
    """The network that a variant's training begins at; on the meta device without pretrained weights."""
    net = EditingNet(**network_of(config, variant))
    if config.pretrained and not next(net.parameters()).is_meta:
        config.pretrained.initialise(net)
    return net


def learning_of(variant: str, config: EditingConfig) -> EditLoss:
    """How a variant is trained."""
    return EditLoss(**{"prediction": config.prediction, **VARIANTS[variant].learning})


def schedule_of(variant: str) -> Schedule:
    """The diffusion that a variant is trained and sampled with."""
    return by_name(**{**SCHEDULE, **VARIANTS[variant].schedule})


def load_autoencoder(config: EditingConfig) -> Autoencoder:
    """The autoencoder of a profile; read-only."""
    return config.pretrained.frozen if config.pretrained else load_checkpoint(autoencoder_name(config.name))


def autoencoder_hash(config: EditingConfig) -> str:
    """SHA-256 of its weights."""
    return config.pretrained.autoencoder_hash() if config.pretrained else weights_hash(autoencoder_name(config.name))


def editor_of(config: EditingConfig, variant: str, seed: int = 0) -> Editor:
    """A trained variant, ready to edit. Raises `ReproError` where its weights are not here."""
    autoencoder, prediction = load_autoencoder(config), learning_of(variant, config).prediction
    network = load_checkpoint(name_of(variant, seed, config.name)).to(autoencoder.device)
    return Editor(network, autoencoder, schedule_of(variant), prediction)


def autoencoder_task(config: EditingConfig) -> Task:
    """Sharp and edited crops of the training split, all kinds alike."""
    held = benchmark.pixels(config.bench)
    kinds = ("sharp", *benchmark.TARGETS, "masked")
    ids = [f"{kind} crop {i}" for kind in kinds for i in range(len(held["sharp"]))]
    return AutoencoderTask(torch.cat([held[kind] for kind in kinds]), ids)


def training_task(config: EditingConfig, variant: str) -> Task:
    """Training set and loss of a variant."""
    network, learning = network_of(config, variant), learning_of(variant, config)
    autoencoder, key = load_autoencoder(config), autoencoder_hash(config)
    held = benchmark.latents(autoencoder, key, config.source)
    if learning.composites:  # no variant of the paper's profile, whose data are not the pack
        held |= benchmark.composites(autoencoder, key, config.bench)
    colours = "reference" if network.get("reference") == "latent" else "rgb"
    return EditTask(held, schedule_of(variant), learning, colours, network.get("mask", False))


def _all(config: EditingConfig) -> Iterator[Experiment]:
    profile, small = config.name, config.name == "small"
    make = partial(Experiment, room="editing", data=config.data, profile=profile)
    if not config.pretrained:
        yield make(
            name=autoencoder_name(profile), task_name="autoencoder", variant="vq", seed=0, ships=small,
            summary="VQ autoencoder, factor 4", recipe=config.autoencoder_recipe,
            build=partial(Autoencoder, **config.autoencoder), task=partial(autoencoder_task, config),
        )  # fmt: skip
    chosen = config.variants or (*VARIANTS, "pix2pix")
    for name, variant in ((name, VARIANTS[name]) for name in chosen if name != "pix2pix"):
        share, seeds = (1.0, (0,)) if config.pretrained else (variant.share, variant.seeds)
        recipe = replace(config.recipe, images=int(config.recipe.images * share))
        for seed in seeds:
            yield make(
                name=name_of(name, seed, profile), task_name="edits", variant=name, seed=seed,
                ships=variant.ships and seed == 0 and small, summary=variant.label, recipe=recipe,
                build=partial(build_network, config, name), task=partial(training_task, config, name),
            )  # fmt: skip
    if "pix2pix" in chosen:
        yield make(
            name=name_of("pix2pix", 0, profile), task_name="edits", variant="pix2pix", seed=0, ships=small,
            summary="pix2pix, all tasks in one network", recipe=config.pix2pix_recipe,
            build=partial(Pix2Pix, **config.pix2pix), task=lambda: Pix2PixTask(benchmark.pixels(config.source)),
        )  # fmt: skip


EXPERIMENTS: tuple[Experiment, ...] = tuple(e for config in (SMALL, SMOKE, PAPER) for e in _all(config))
