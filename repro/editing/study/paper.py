"""Paper scale: REDS as the source of the benchmark, and the published networks that the paper's training starts from.

"Multi-task image-to-image diffusion models with fine-grained control" splits REDS' 300 sequences into 240, 30 and 30,
but the ground truth of the last 30 is withheld. Decided here: the 30 published validation sequences are the test split,
and the last 30 of the 240 training sequences are held out. No number on this test split is one on the paper's.

Section 3.2: "The VQ autoencoder and the denoising U-Net are initialized from a pretrained text-to-image model", citing
"High-Resolution Image Synthesis with Latent Diffusion Models": most likely the one of 1.45 billion parameters, trained
at the paper's 256 pixels, whose files call its KL autoencoder `vqvae`. Decided here, the paper being silent: the
autoencoder stays frozen; latents are the mode of its distribution; the input convolution's weights for new channels
start at zero, so that training begins at the pretrained model; nothing but the mapping network is new.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import save
from torch import Tensor

from repro import paths
from repro.data.datasets import read_split
from repro.data.files import Pair, crops
from repro.data.images import read_image
from repro.editing.effects import TargetRules, free_form_mask
from repro.editing.model import EditingNet
from repro.editing.study.benchmark import VERSION, Split, parameters, reference_rows
from repro.engine.train import digest
from repro.errors import ReproError

_HELD = 8  # one in eight of the training sequences is held out, for choices: 30 of 240


@dataclass(frozen=True)
class Reds:
    """REDS in its published layout: `train/train_sharp/000/00000000.png`, `train/train_blur/…`, `val/…`.

    One crop of crop x crop pixels from every pair of frames, at a place keyed by (version, id). rules: as of `Bench`.
    """

    root: Path
    crop: int = 256
    rules: TargetRules = TargetRules()  # noqa: RUF009 (frozen)
    version: int = VERSION

    def digest(self) -> str:
        """Short hash of the definition, and of names and sizes of the files."""
        pairs = (*self.pairs("train"), *self.pairs("test"))
        files = [path for pair in pairs for path in (pair.target, pair.input)]
        sizes = [[file.relative_to(self.root).as_posix(), file.stat().st_size] for file in files]
        settings = {"crop": self.crop, "recipe": self.rules.hashed(), "version": self.version}
        return digest({**settings, "files": sizes})

    def pairs(self, name: str) -> tuple[Pair, ...]:
        """Blurred (input) and sharp (target) frames of "train" or "test"."""
        every = _pairs(self.root, "val" if name == "test" else "train")
        sequences = sorted({_sequence(pair) for pair in every})
        held = set(sequences[len(sequences) - len(sequences) // _HELD :])
        return tuple(pair for pair in every if name == "test" or _sequence(pair) not in held)

    def blocks(self, name: str, most: int, pairs: Sequence[Pair] | None = None) -> Iterator[Split]:
        """The crops of a split (or of some of its pairs), at most so many at once."""
        pairs, train = pairs or self.pairs(name), self.pairs("train")
        every = [self._id(pair) for pair in pairs]
        others = reference_rows(name, every, len(train), self.version).tolist()
        for rows in (slice(start, start + most) for start in range(0, len(pairs), most)):
            ids, sharp, blurred = tuple(every[rows]), self._cut(pairs[rows], "target"), self._cut(pairs[rows], "input")
            reference = self._cut([train[i] for i in others[rows]], "target")
            # The paper does not say how a frame gets its "blur degree": here, the share of its deviation that is gone.
            lost, whole = sharp.double() - blurred, sharp.double() - sharp.double().mean(dim=(2, 3), keepdim=True)
            beta = (lost.flatten(1).norm(dim=1) / whole.flatten(1).norm(dim=1).clamp(min=1e-6)).clamp(max=1)
            drawn = zip(parameters(ids, self.version), beta.tolist(), strict=True)
            vectors = tuple(replace(vector, blur=round(share, 4)) for vector, share in drawn)
            hole = free_form_mask(self.version, ids, (self.crop, self.crop))
            yield Split(ids, sharp, reference, hole, vectors, self, blurred)

    def first(self, name: str, each: int) -> Split:
        """The first `each` frames of every sequence of a split, in memory."""
        chosen = [pair for _, group in groupby(self.pairs(name), _sequence) for pair in list(group)[:each]]
        return next(self.blocks(name, len(chosen), chosen))

    def _id(self, pair: Pair) -> str:
        """As "train/000/00000042": the published part, the sequence, the frame."""
        part, _, sequence, frame = pair.target.relative_to(self.root).parts
        return f"{part}/{sequence}/{Path(frame).stem}"

    def _cut(self, pairs: Sequence[Pair], kind: str) -> Tensor:
        """The crops of the "input" or the "target" of pairs, not mirrored: the same place for both."""
        return torch.cat(
            [crops([read_image(getattr(p, kind))], self.crop, [self._id(p)], self.version, flip=False) for p in pairs]
        )


def _sequence(pair: Pair) -> str:
    return pair.target.parent.name


@lru_cache(maxsize=4)
def _pairs(root: Path, part: str) -> tuple[Pair, ...]:
    return tuple(sorted(read_split("reds", part, root).pairs, key=lambda pair: pair.target))


class PretrainedAutoencoder(AutoencoderKL):
    """A published KL autoencoder, used like ours: latents are the mode, times the scale of unit deviation."""

    @property
    def factor(self) -> int:
        """Pixels a side of one latent."""
        return 2 ** (len(self.config.block_out_channels) - 1)

    @property
    def channels(self) -> int:
        """Channels of a latent."""
        return self.config.latent_channels

    @torch.no_grad()
    def encode(self, image: Tensor) -> Tensor:
        return super().encode(image).latent_dist.mode() * self.config.scaling_factor

    @torch.no_grad()
    def decode(self, latent: Tensor, quantize: bool = False) -> Tensor:
        return super().decode(latent / self.config.scaling_factor).sample.clamp(-1, 1)


@dataclass(frozen=True, eq=False)
class Pretrained:
    """A published text-to-image model, in diffusers' layout: latents of 4 channels and factor 8.

    `hub`   where it is published; its own folder in `repro.paths.data()` bears the name after the slash.
    `part`  subfolder of the autoencoder; that of the U-Net is "unet".
    `unet`, `autoencoder`  their configuration.
    """

    hub: str
    part: str
    unet: Mapping[str, Any]
    autoencoder: Mapping[str, Any]

    @property
    def network(self) -> dict[str, Any]:
        """Arguments of `EditingNet`; the input's bypass is left out, since a pretrained network needs none."""
        sizes = {"channels": self.unet["out_channels"], "context": self.unet["cross_attention_dim"]}
        return {"published": dict(self.unet), **sizes, "input_skip": False, "checkpointing": True}

    def load(self, kind: Any, part: str, settings: Mapping[str, Any]) -> Any:
        """A part as diffusers' class `kind`, in fp32: from the model's own folder, else from the Hugging Face hub.

        Raises `ReproError` where it is in neither, and where its configuration is not `settings`.
        """
        own = paths.data() / self.hub.split("/")[-1]
        try:  # of .bin files, too, only tensors are read
            loaded = kind.from_pretrained(str(own) if own.is_dir() else self.hub, subfolder=part)
        except (OSError, ValueError, RuntimeError, EOFError) as error:
            raise ReproError(
                f"{own / part}: no pretrained weights ({' '.join(str(error).split())[:200]}); accepted there: "
                f"the folder {part} of {self.hub} on the Hugging Face hub, which could not be fetched"
            ) from error
        for key, value in settings.items():
            given = loaded.config.get(key)
            if (list(given) if isinstance(given, tuple) else given) != value:
                raise ReproError(f"{self.hub}/{part}: {key} is {given!r}; accepted: {value!r}, as published")
        return loaded.float()

    def initialise(self, net: EditingNet) -> None:
        """Give `net` the pretrained U-Net: its output is then that of the U-Net with the same context tokens."""
        state = self.load(UNet2DConditionModel, "unet", self.unet).state_dict()
        own = state["conv_in.weight"]
        state["conv_in.weight"] = own.new_zeros(len(own), net.unet.config.in_channels, *own.shape[2:])
        state["conv_in.weight"][:, : own.shape[1]] = own
        net.unet.load_state_dict(state)

    @cached_property
    def frozen(self) -> PretrainedAutoencoder:
        """The autoencoder, in eval mode, on the accelerator where there is one; read-only."""
        made = self.load(PretrainedAutoencoder, self.part, self.autoencoder)
        return made.eval().requires_grad_(False).to("cuda" if torch.cuda.is_available() else "cpu")

    def autoencoder_hash(self) -> str:
        """SHA-256 of the autoencoder's weights."""
        return hashlib.sha256(save({k: v.contiguous() for k, v in self.frozen.state_dict().items()})).hexdigest()


LDM = Pretrained(**paths.read_toml(Path(__file__).with_name("experiments.toml"))["pretrained"])
