"""The mapping network f_theta: from the editing vector to the context tokens of cross-attention.

"Multi-task image-to-image diffusion models with fine-grained control", section 3.2: two linear layers with a sigmoid
linear unit between them; Table 4 varies their number. The paper does not say how many tokens they make, and it matters:
the softmax over a *single* token is 1 whatever the query, so that to_q and to_k never receive a gradient and
cross-attention shrinks to one learned vector added at every position. One token per entry keeps it attention.
"""

from __future__ import annotations

from typing import Literal

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from torch.nn import functional as F

from repro.editing.vector import HIGHS, LENGTH, SCALARS
from repro.errors import ReproError

DEPTHS = (0, 1, 2, 4)


class VectorMapping(ModelMixin, ConfigMixin):
    """C (B, 9) -> context tokens (B, tokens, width).

    Args:
        width: of a token, the U-Net's `cross_attention_dim`, and of the hidden layers. Without layers a token is made
            of the entries themselves and `width` must be their number.
        layers: linear layers, SiLU between them; 0, 1, 2 or 4 (Table 4).
        tokens: "entry": one token per entry. Its first layer has a weight and a bias of each entry's own, so that an
            entry is known by more than its magnitude; the layers above are shared. Without layers, token i is entry i
            at place i, else zeros. "single": one token of all entries, the literal reading.
        labels: False drops the five binary labels (the ablation of Table 4): four entries remain.
        scaled: True divides each entry by its largest value. As written in the paper, raw magnitudes differ 30-fold.
    """

    @register_to_config
    def __init__(
        self,
        width: int = 128,
        layers: int = 2,
        tokens: Literal["entry", "single"] = "entry",
        labels: bool = True,
        scaled: bool = False,
    ) -> None:
        super().__init__()
        entries = LENGTH if labels else len(SCALARS)
        if layers not in DEPTHS:
            raise ReproError(f"f_theta: got {layers} layers; accepted: {', '.join(map(str, DEPTHS))}")
        if tokens not in ("entry", "single"):
            raise ReproError(f"f_theta: got tokens {tokens!r}; accepted: entry, single")
        if layers == 0 and width != entries:
            raise ReproError(f"f_theta: without layers a token is {entries} wide, the entries; got width {width}")
        self.entries = entries
        scale = torch.tensor(HIGHS[:entries]) if scaled else torch.ones(entries)
        self.register_buffer("scale", scale, persistent=False)
        self.first = self.weight = self.bias = None
        if layers and tokens == "single":
            self.first = nn.Linear(entries, width)
        elif layers:  # a linear layer of one input each, initialised as torch initialises one
            self.weight, self.bias = (nn.Parameter(torch.empty(entries, width)) for _ in range(2))
            nn.init.uniform_(self.weight, -1, 1)
            nn.init.uniform_(self.bias, -1, 1)
        self.rest = nn.ModuleList(nn.Linear(width, width) for _ in range(layers - 1))

    def forward(self, vector: Tensor) -> Tensor:
        if vector.dim() != 2 or vector.shape[1] != LENGTH:
            raise ReproError(f"f_theta: got an editing vector of shape {tuple(vector.shape)}; accepted: (B, {LENGTH})")
        c = vector[:, : self.entries].to(self.scale.dtype) / self.scale
        if self.weight is not None:
            h = torch.addcmul(self.bias, c[:, :, None], self.weight)  # (B, entries, width)
        elif self.first is not None:
            h = self.first(c[:, None])  # (B, 1, width)
        else:
            h = torch.diag_embed(c) if self.config.tokens == "entry" else c[:, None]
        for linear in self.rest:
            h = linear(F.silu(h))
        return h
