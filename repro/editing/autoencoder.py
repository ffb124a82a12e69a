"""The autoencoder of the latent space: a small VQ of factor 4 around diffusers' `VQModel`, and its training.

The paper takes a pretrained one ("VQ"); this one is trained on the benchmark's own crops, edited ones included: an
autoencoder that has only seen sharp pictures cannot carry grain. Pictures enter as 2 x 2 patches of pixels (the
convolutions at full size would cost four times as much), then `VQModel` halves them once more.

Diffusion runs on the latents before quantisation, brought to zero mean and unit deviation per channel by running
statistics of the training (latent diffusion models' "scale factor"; that of a home-trained VQ is far from 1). The
decoder sees quantised and unquantised latents alike in training, so it can decode both; what quantisation costs is
measured.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

import torch
from diffusers import VQModel
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from torch.nn import functional as F

from repro.engine.rng import KeyedNoise
from repro.errors import ReproError
from repro.metrics.lpips import LpipsAlex
from repro.metrics.lpips import load as load_lpips

PATCH = 2
LPIPS_WEIGHT, COMMIT_WEIGHT = 0.5, 0.1
STATISTICS = 0.02  # a batch's share in the running mean and deviation
REVIVE_EVERY = 20  # steps on average; codes that nothing in the batch came near are put where latents are

Noises = Callable[[str], KeyedNoise]


class Autoencoder(ModelMixin, ConfigMixin):
    """(B, 3, H, W) in [-1, 1] <-> latents (B, channels, H/4, W/4) of zero mean and unit deviation.

    Args:
        width: channels of the convolutions.
        channels: of a latent.
        codes: in the codebook.
    """

    @register_to_config
    def __init__(self, width: int = 64, channels: int = 8, codes: int = 1024) -> None:
        super().__init__()
        self.vq = VQModel(
            in_channels=3 * PATCH**2,
            out_channels=3 * PATCH**2,
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            block_out_channels=(width, width),
            layers_per_block=1,
            latent_channels=channels,
            vq_embed_dim=channels,
            num_vq_embeddings=codes,
            norm_num_groups=8,
            mid_block_add_attention=False,
        )
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("deviation", torch.ones(channels))

    @property
    def factor(self) -> int:
        """Pixels a side of one latent."""
        return 2 * PATCH

    @property
    def channels(self) -> int:
        """Channels of a latent."""
        return self.config.channels

    def raw(self, image: Tensor) -> Tensor:
        """Latents as the quantiser takes them, (B, channels, H/4, W/4)."""
        self._check(image)
        return self.vq.encode(F.pixel_unshuffle(image, PATCH)).latents

    def _check(self, image: Tensor) -> None:
        """Refuse what is no batch of pictures of whole latents."""
        if image.dim() != 4 or image.shape[1] != 3 or image.shape[2] % self.factor or image.shape[3] % self.factor:
            raise ReproError(
                f"autoencoder: got a picture of shape {tuple(image.shape)}; accepted: (B, 3, H, W) with H and W "
                f"multiples of {self.factor}"
            )

    @torch.no_grad()
    def encode(self, image: Tensor) -> Tensor:
        """Latents for diffusion: before quantisation, zero mean and unit deviation."""
        return (self.raw(image) - self.mean.view(1, -1, 1, 1)) / self.deviation.view(1, -1, 1, 1)

    @torch.no_grad()
    def decode(self, latent: Tensor, quantize: bool = False) -> Tensor:
        """Picture of latents as `encode` gives them, (B, 3, H, W) clamped to [-1, 1]."""
        z = latent * self.deviation.view(1, -1, 1, 1) + self.mean.view(1, -1, 1, 1)
        return self.render(self.vq.quantize(z)[0] if quantize else z).clamp(-1, 1)

    def render(self, raw: Tensor) -> Tensor:
        """The decoder alone, of latents in the quantiser's units."""
        return F.pixel_shuffle(self.vq.decode(raw, force_not_quantize=True).sample, PATCH)

    def forward(self, image: Tensor, drop: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Training: reconstruction, commitment loss, latents; samples where `drop` (B,) is true skip quantisation."""
        z = self.raw(image).float()
        with torch.autocast(z.device.type, enabled=False):  # the nearest code, not the nearest in bf16
            quantised, commitment, _ = self.vq.quantize(z)
        if self.training:
            self._track(z.detach())
        return self.render(torch.where(drop[:, None, None, None], z, quantised)), commitment, z.detach()

    @torch.no_grad()
    def _track(self, z: Tensor) -> None:
        self.mean.lerp_(z.mean(dim=(0, 2, 3)), STATISTICS)
        self.deviation.lerp_(z.std(dim=(0, 2, 3)), STATISTICS)

    @torch.no_grad()
    def revive(self, z: Tensor, noise: Tensor) -> int:
        """Move codes that no latent of `z` is nearest to onto latents of it, chosen by `noise` (codes,) in [0, 1)."""
        flat = z.permute(0, 2, 3, 1).reshape(-1, self.channels).float()
        table = self.vq.quantize.embedding.weight
        used = torch.bincount(torch.cdist(flat, table).argmin(dim=1), minlength=len(table)) > 0
        dead = (~used).nonzero()[:, 0]
        table[dead] = flat[(noise[: len(dead)] * len(flat)).long()].to(table.dtype)
        return len(dead)


@lru_cache(maxsize=1)
def _perceptual() -> LpipsAlex:
    return load_lpips()


class AutoencoderTask:
    """Reconstruct crops of every kind: l1 and LPIPS, with the quantiser's commitment.

    `pictures` uint8 (N, 3, S, S), of all kinds together. Codes are revived on one process only: several would each move
    their own copy elsewhere.
    """

    def __init__(self, pictures: Tensor, ids: Sequence[str]) -> None:
        self.pictures, self.ids, self.size = pictures, list(ids), len(pictures)
        self.settings = {"lpips": LPIPS_WEIGHT, "commitment": COMMIT_WEIGHT, "revive": REVIVE_EVERY}

    def names(self, indices: Tensor) -> list[str]:
        return [self.ids[i] for i in indices.tolist()]

    def loss(self, model: nn.Module, indices: Tensor, noise: Noises) -> Tensor:
        image = (self.pictures[indices].float() / 127.5 - 1).to(noise("drop").device)
        output, commitment, z = model(image, noise("drop").uniform() < 0.5)
        if isinstance(model, Autoencoder) and model.training:
            drawn = noise("revive").uniform((model.config.codes + 1,))[0]
            if drawn[0] < 1 / REVIVE_EVERY:
                model.revive(z, drawn[1:])
        l1 = (output.float() - image).abs().mean(dim=(1, 2, 3))
        perceptual = _perceptual().to(image.device)(output, image).float()
        return l1 + LPIPS_WEIGHT * perceptual + COMMIT_WEIGHT * commitment.float()
