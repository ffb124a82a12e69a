"""Predictor and diffusion network together: what is trained jointly and kept in one checkpoint."""

from __future__ import annotations

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor

from repro.errors import ReproError
from repro.ucdir.network import DiffusionUNet
from repro.ucdir.predictor import Predictor


class UCDIR(ModelMixin, ConfigMixin):
    """Initial predictor u and noise predictor f.

    The defaults are the published network (97,354,699 + 7,760,163 parameters).

    Args:
        residual_scale: the diffusion runs on this many times the residual y - u(x) (published: 1).
        residual_std: standard deviation of the scaled residual; where it is given, the U-Net predicts that residual
            where there is much noise and the noise where there is little (published: 0, the noise everywhere).
        fine_std: the noise at which the one passes into the other: a narrow network cannot carry noise through.
        told: what f takes as the noise level: "sqrt_gamma" (the public code) or "gamma" (the paper's Eq. 1).
        predictor_channels, predictor_levels, predictor_residual, predictor_widest, predictor_normed: see `Predictor`.
        The rest: see `DiffusionUNet`; `patch` and `view` are of both.
    """

    @register_to_config
    def __init__(
        self,
        residual_scale: float = 1.0,
        residual_std: float = 0.0,
        fine_std: float = 0.02,
        told: str = "sqrt_gamma",
        predictor_channels: int = 32,
        predictor_levels: int = 5,
        predictor_residual: bool = False,
        base_channels: int = 64,
        channel_mults: tuple[int, ...] = (1, 2, 4, 8, 8),
        blocks: int = 2,
        light: bool = False,
        attention_levels: tuple[int, ...] = (3,),
        mid_attention: bool = True,
        norm: str = "one-group",
        activation: str = "swish",
        guidance: str = "predictor",
        conditioning: str = "kernels",
        patch: int = 1,
        input_skip: bool = False,
        tasks: tuple[str, ...] = (),
        dropout: float = 0.1,
        level_scale: float = 1.0,
        predictor_widest: int = 0,
        predictor_normed: bool = False,
        blind: bool = False,
        view: bool = False,
    ) -> None:
        super().__init__()
        if told not in ("sqrt_gamma", "gamma"):
            raise ReproError(f"told {told!r} is unknown: choose sqrt_gamma or gamma")
        if not residual_scale > 0:
            raise ReproError(f"residual_scale must be positive: got {residual_scale}")
        self.predictor = Predictor(
            predictor_channels,
            predictor_levels,
            patch,
            predictor_residual,
            predictor_widest,
            predictor_normed,
            view,
            len(tasks),
        )
        self.unet = DiffusionUNet(
            base_channels, tuple(channel_mults), blocks, light, tuple(attention_levels), mid_attention, norm,
            activation, guidance, conditioning, patch, input_skip, tuple(tasks), dropout,
            level_scale, blind, view,
        )  # fmt: skip

    def guide(self, degraded: Tensor, initial: Tensor) -> Tensor | None:
        """What guides the blocks: the initial estimate as published, or what the ablation puts in its place."""
        return {"predictor": initial, "degraded": degraded}.get(self.config.guidance)

    def denoise(
        self,
        degraded: Tensor,
        noisy: Tensor,
        sqrt_gamma: Tensor,
        guide: Tensor | None,
        task: Tensor | None = None,
        strength: Tensor | None = None,
        view: Tensor | None = None,
    ) -> Tensor:
        """Noise predicted in `noisy` (B, 3, H, W), the scaled residual at level `sqrt_gamma` (B,)."""
        level = sqrt_gamma if self.config.told == "sqrt_gamma" else sqrt_gamma**2
        out = self.unet(degraded, noisy, level, guide, task, strength, view)
        if not self.config.residual_std:
            return out
        a = sqrt_gamma[:, None, None, None]
        s = (1 - a**2).clamp(min=0).sqrt()
        total = s**2 + (a * self.config.fine_std) ** 2  # variance of a noisy residual of that deviation
        return noisy * (s / total) + out * (a * self.config.residual_std / total.sqrt())

    def forward(
        self,
        degraded: Tensor,
        clean: Tensor | None = None,
        sqrt_gamma: Tensor | None = None,
        eps: Tensor | None = None,
        task: Tensor | None = None,
        strength: Tensor | None = None,
        detach: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """One training pass (Eq. 1): (predicted noise, initial estimate), gradients reaching the predictor through both
        target and guide; `detach` cuts both off (the predictor then learns from a loss of its own). Without a clean
        image it is the pass of the regression baseline: (estimate, initial estimate)."""
        if clean is None or sqrt_gamma is None or eps is None:
            return self.regress(degraded, task, strength)
        initial = self.predictor(degraded, task=task)
        used = initial.detach() if detach else initial
        s = sqrt_gamma[:, None, None, None]
        noisy = s * self.config.residual_scale * (clean - used) + (1 - s**2).clamp(min=0).sqrt() * eps
        return self.denoise(degraded, noisy, sqrt_gamma, self.guide(degraded, used), task, strength), initial

    def regress(
        self, degraded: Tensor, task: Tensor | None = None, strength: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The regression baseline of the same architecture: no noise anywhere; (estimate, initial estimate)."""
        initial = self.predictor(degraded, task=task)
        level = torch.zeros(len(degraded), device=degraded.device)
        zero = torch.zeros_like(degraded)
        return initial + self.unet(degraded, zero, level, self.guide(degraded, initial), task, strength), initial
