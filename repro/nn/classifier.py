"""A small noise-aware classifier: features for FID and IS on clean images, gradients for guidance on noisy ones."""

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from torch.nn import functional as F

from repro.nn.unet import ResBlock, sinusoid


class Classifier(ModelMixin, ConfigMixin):
    """Residual network over (B, in_channels, H, W) in [-1, 1]; `t` = 0 means a clean image.

    The time input follows the noise-aware classifier of Dhariwal and Nichol ("Diffusion Models Beat GANs", section 4):
    t counts noising steps, so an image noised to index i of a schedule is given t = i + 1.
    """

    @register_to_config
    def __init__(
        self, in_channels: int = 1, classes: int = 10, base_channels: int = 24,
        channel_mults: tuple[int, ...] = (1, 2, 3), norm_groups: int = 8, dropout: float = 0.1, feature_width: int = 64,
    ) -> None:  # fmt: skip
        super().__init__()
        c_time, widths = 2 * base_channels, [base_channels * m for m in channel_mults]
        self.time_mlp = nn.Sequential(nn.Linear(base_channels, c_time), nn.SiLU(), nn.Linear(c_time, c_time))
        self.conv_in = nn.Conv2d(in_channels, widths[0], 3, padding=1)
        self.blocks = nn.ModuleList(
            ResBlock(a, b, c_time, norm_groups, dropout) for a, b in zip([widths[0], *widths[:-1]], widths, strict=True)
        )
        self.embed = nn.Linear(widths[-1], feature_width)
        self.head = nn.Linear(feature_width, classes)

    def features(self, x: Tensor, t: Tensor | int = 0) -> Tensor:
        """(B, feature_width) penultimate activations."""
        t = torch.as_tensor(t, device=x.device).reshape(-1).expand(len(x))
        weight = self.time_mlp[0].weight
        emb = F.silu(self.time_mlp(sinusoid(t, self.config.base_channels).to(weight.dtype)))
        h = self.conv_in(x)
        for i, block in enumerate(self.blocks):
            h = block(F.avg_pool2d(h, 2) if i else h, emb)
        return F.silu(self.embed(h.mean(dim=(2, 3))))

    def forward(self, x: Tensor, t: Tensor | int = 0) -> Tensor:
        """(B, classes) logits."""
        return self.head(self.features(x, t))
