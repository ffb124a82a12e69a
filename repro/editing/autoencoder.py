"""The autoencoder of the latent space: a small VQ of factor 4 around diffusers' `VQModel`, and its training.

The paper takes a pretrained one ("VQ"); this one is trained on the benchmark's own crops, edited ones included: an
autoencoder trained on sharp images alone cannot carry grain. A latent is the sum of a 1x1 convolution of a patch of
4 x 4 pixels and of `VQModel`, which uses the neighbours. Without the convolution the same budget blurs.

Diffusion runs on the latents before quantisation, brought to zero mean and unit deviation per channel by running
statistics of the training. No diffusion model hits a latent exactly, so training adds up to a quarter of a deviation of
noise to them. The decoder learns both kinds of latents; the codebook follows them, without a gradient to the encoder.
"""

from collections.abc import Sequence

import torch
from diffusers import VQModel
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from torch.nn import functional as F

from repro.engine.rng import Noises
from repro.metrics.pixel import lpips_network

PATCH = 4
LPIPS_WEIGHT, CODEBOOK_WEIGHT = 0.25, 0.1
JITTER = 0.25  # at most, in deviations of the latents
UNQUANTISED = 0.9  # share of samples that training decodes without the codebook
STATISTICS = 0.02  # a batch's share in the running mean and deviation
REVIVE_EVERY = 20  # steps on average; codes that nothing in the batch came near are put where latents are


class Autoencoder(ModelMixin, ConfigMixin):
    """(B, 3, H, W) in [-1, 1] <-> latents (B, channels, H/4, W/4) of zero mean and unit deviation.

    `width`: channels of the convolutions. `channels`: of a latent. `codes`: in the codebook.
    """

    factor: int = PATCH  # pixels a side of one latent

    @register_to_config
    def __init__(self, width: int = 96, channels: int = 16, codes: int = 1024) -> None:
        super().__init__()
        self.vq = VQModel(
            in_channels=3 * PATCH**2, out_channels=3 * PATCH**2, latent_channels=channels, vq_embed_dim=channels,
            down_block_types=("DownEncoderBlock2D",), up_block_types=("UpDecoderBlock2D",), block_out_channels=(width,),
            layers_per_block=1, num_vq_embeddings=codes, norm_num_groups=8, mid_block_add_attention=False,
        )  # fmt: skip
        self.straight_in = nn.Conv2d(3 * PATCH**2, channels, 1)
        self.straight_out = nn.Conv2d(channels, 3 * PATCH**2, 1)
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("deviation", torch.ones(channels))

    @property
    def channels(self) -> int:
        """Channels of a latent."""
        return self.config.channels

    def raw(self, image: Tensor) -> Tensor:
        """Latents as the quantiser takes them, (B, channels, H/4, W/4)."""
        patches = F.pixel_unshuffle(image, PATCH)
        return self.vq.encode(patches).latents + self.straight_in(patches)

    def render(self, raw: Tensor) -> Tensor:
        """The decoder alone, of latents in the quantiser's units."""
        patches = self.vq.decode(raw, force_not_quantize=True).sample + self.straight_out(raw)
        return F.pixel_shuffle(patches, PATCH)

    @torch.no_grad()
    def encode(self, image: Tensor) -> Tensor:
        """Latents for diffusion: before quantisation, zero mean and unit deviation."""
        return (self.raw(image.to(self.mean.dtype)) - self.mean.view(1, -1, 1, 1)) / self.deviation.view(1, -1, 1, 1)

    @torch.no_grad()
    def decode(self, latent: Tensor, quantize: bool = False) -> Tensor:
        """Image of latents as `encode` gives them, (B, 3, H, W) clamped to [-1, 1]."""
        z = latent * self.deviation.view(1, -1, 1, 1) + self.mean.view(1, -1, 1, 1)
        return self.render(self.vq.quantize(z)[0] if quantize else z).clamp(-1, 1)

    def forward(self, image: Tensor, drop: Tensor, jitter: Tensor | float = 0.0) -> tuple[Tensor, Tensor, Tensor]:
        """Training: reconstruction, the codebook's loss, latents; where `drop` (B,) is true not quantised.

        `jitter` (B, channels, H/4, W/4), in deviations of the latents, is added to what is not quantised.
        """
        z = self.raw(image).float()
        with torch.autocast(z.device.type, enabled=False):  # the nearest code, not the nearest in bf16
            # Detached: quantised samples teach decoder and codes alone. With gradients passed straight through, and no
            # commitment to hold them, the latents grew until the training diverged.
            codes, distance, _ = self.vq.quantize(z.detach())
        plain = z.detach()
        if self.training:
            self.mean.lerp_(plain.mean(dim=(0, 2, 3)), STATISTICS)
            self.deviation.lerp_(plain.std(dim=(0, 2, 3)), STATISTICS)
        latent = z + jitter * plain.std(dim=(0, 2, 3), keepdim=True)
        return self.render(torch.where(drop[:, None, None, None], latent, codes)), distance, plain

    @torch.no_grad()
    def revive(self, z: Tensor, noise: Tensor) -> None:
        """Move codes that no latent of `z` is nearest to onto latents of it, chosen by `noise` (codes,) in [0, 1)."""
        flat = z.permute(0, 2, 3, 1).reshape(-1, self.channels).float()
        table = self.vq.quantize.embedding.weight
        used = torch.bincount(torch.cdist(flat, table).argmin(dim=1), minlength=len(table)) > 0
        dead = (~used).nonzero()[:, 0]
        table[dead] = flat[(noise[: len(dead)] * len(flat)).long()].to(table.dtype)


class AutoencoderTask:
    """Reconstruct crops of every kind: l1 and LPIPS, with the codebook's distance.

    `images` uint8 (N, 3, S, S), of all kinds together. Codes are revived on one process only: several would each move
    their own copy elsewhere.
    """

    def __init__(self, images: Tensor, ids: Sequence[str]) -> None:
        self.images, self.ids = images, list(ids)
        self.settings = {"lpips": LPIPS_WEIGHT, "codebook": CODEBOOK_WEIGHT, "jitter": JITTER}
        self.settings |= {"unquantised": UNQUANTISED, "revive": REVIVE_EVERY}

    def loss(self, model: nn.Module, indices: Tensor, noise: Noises) -> Tensor:
        image = (self.images[indices].float() / 127.5 - 1).to(noise("drop").device)
        channels = getattr(model, "module", model).config.channels  # several processes wrap it
        size = (channels, *(n // PATCH for n in image.shape[2:]))  # of a latent
        jitter = JITTER * noise("level").uniform()[:, None, None, None] * noise("jitter").normal(size)
        output, distance, z = model(image, noise("drop").uniform() < UNQUANTISED, jitter)
        if isinstance(model, Autoencoder) and model.training:
            drawn = noise("revive").uniform((model.config.codes + 1,))[0]
            if drawn[0] < 1 / REVIVE_EVERY:
                model.revive(z, drawn[1:])
        l1 = (output.float() - image).abs().mean(dim=(1, 2, 3))
        # AlexNet's first layer takes steps of 4 pixels, as large as a patch: always from the same corner, a
        # constant grid of 4 grey levels on every image lowered LPIPS, and was learned. So the corner moves.
        down, right = noise("corner").integers(0, PATCH, (2,))[0].tolist()
        moved = (F.pad(x, (right, 0, down, 0), mode="reflect") for x in (output, image))
        perceptual = lpips_network(str(image.device))(*moved).float()
        return l1 + LPIPS_WEIGHT * perceptual + CODEBOOK_WEIGHT * distance.float()
