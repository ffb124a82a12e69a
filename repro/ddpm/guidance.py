"""Classifier guidance: Dhariwal and Nichol 2021, "Diffusion Models Beat GANs on Image Synthesis".

A guide is a function (x, t (B,), step) -> gradient of a log likelihood in x's shape; `step` tells the state of the
reverse step (x_t, x0, eps, variance). The samplers apply it:

    ancestral(guide=)   mean + variance * gradient, the gradient taken at the mean or at x_t    Algorithm 1
    ddim(guide=)        eps - sqrt(1 - alpha_bar_t) * gradient, the gradient taken at x_t       Algorithm 2

Where Algorithm 1 takes its gradient matters. The derivation (Section 4.1) expands log p(y | x) around the mean; the
authors' code evaluates at x_t. `guide_at="mean"`, the default, follows the derivation.
"""

from __future__ import annotations

import torch
from torch import Tensor

from repro.ddpm.process import Model
from repro.ddpm.steps import Guide, Step
from repro.errors import ReproError


def classifier_guide(classifier: Model, labels: Tensor, scale: float = 1.0) -> Guide:
    """scale * gradient of log p(label | x, t) of a classifier (x, t) -> logits (B, classes), trained on noisy pictures.

    `labels` (B,) int64. The gradient is that of a sum over the batch, so samples do not see one another.
    """
    if labels.ndim != 1 or labels.dtype != torch.int64:
        raise ReproError(f"labels must be (B,) int64: got {tuple(labels.shape)} of {labels.dtype}")

    def guide(x: Tensor, t: Tensor, step: Step) -> Tensor:
        if len(labels) != len(x):
            raise ReproError(f"guidance needs one label per sample: got {len(labels)} labels for {len(x)} samples")
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            log_p = torch.log_softmax(classifier(x, t).float(), dim=1)
            chosen = log_p.gather(1, labels.to(x.device)[:, None]).sum()
            return torch.autograd.grad(chosen, x)[0] * scale

    return guide


def combined(*guides: Guide) -> Guide:
    """The sum of several guides: the gradient of the product of their likelihoods."""
    if not guides:
        raise ReproError("combined() needs at least one guide: got none")
    return lambda x, t, step: torch.stack([guide(x, t, step) for guide in guides]).sum(0)
