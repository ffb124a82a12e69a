"""Raindrops on a window pane: lenses that show the scene upside down, soft because the camera focuses behind them.

What images of real drops show (Qian et al. 2018, "Attentive Generative Adversarial Network for Raindrop Removal"): a
drop refracts a wide angle of the scene, inverted; the view is compressed towards its rim, which is dark where light is
totally reflected; its outline is blurred, since it is out of focus; many carry a small highlight. Nothing of the
background is left in a drop's middle: it has to be painted in.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from repro.engine.rng import KeyedNoise

RADIUS = (2.5, 10.0)  # pixels, log-uniform
COVERAGE = (0.06, 0.22)  # share of the pane under drops, before they overlap


def rain(image: Tensor, noise: KeyedNoise) -> Tensor:
    """(B, 3, H, W) in [0, 1] behind a pane with drops, their share of it uniform in COVERAGE; each sample has its own.

    Where a drop looks beyond the image's edge, the image is mirrored.
    """
    height, width = image.shape[-2:]
    drops = _drops(noise, (height, width))
    rows = torch.arange(height, device=image.device)[:, None] + 0.5
    cols = torch.arange(width, device=image.device)[None, :] + 0.5
    index, q = _nearest(drops, rows, cols)

    def of(name: str) -> Tensor:  # the value of each pixel's drop (B, H, W)
        return drops[name].gather(1, index.flatten(1)).view_as(q)

    x, y, radius = of("x"), of("y"), of("radius")
    inside = (1 - q.clamp(max=4)) * radius / of("soft") + 0.5  # distance to the outline over its blur
    mask = torch.where(radius > 0, inside, 0.0).clamp(0, 1)  # a pane without any drop: every pixel has an empty slot
    mask = (mask * mask * (3 - 2 * mask))[:, None]  # smooth step

    # A half ball of water: the deviation grows towards the rim, the scene is inverted.
    depth = q.clamp(max=1)
    bend = of("power") * (1 + 1.5 * depth**4)
    source = torch.stack([(x - bend * (cols - x)) / width, (y - bend * (rows - y)) / height], dim=-1)  # (B, H, W, 2)
    blurred = _blur(image)  # a view compressed by `power` has no detail finer than it
    view = F.grid_sample(blurred, source * 2 - 1, mode="bilinear", padding_mode="reflection", align_corners=False)

    rim = ((depth - 0.55) / 0.45).clamp(0, 1) ** 2
    light = 1 - of("shade") * rim
    shine_x, shine_y = x + 0.35 * radius, y - 0.4 * radius
    width2 = (0.16 * radius).clamp(min=0.7) ** 2
    glint = of("glint") * torch.exp(-((cols - shine_x) ** 2 + (rows - shine_y) ** 2) / (2 * width2))
    lens = view * light[:, None] + glint[:, None] * (1 - view)
    return (image + mask * (lens - image)).clamp(0, 1)


def _drops(noise: KeyedNoise, size: tuple[int, int]) -> dict[str, Tensor]:
    """Drops of each sample, (B, N) numbers each."""
    height, width = size
    low, high = RADIUS
    mean_area = math.pi * (high**2 - low**2) / (2 * math.log(high / low))  # of a log-uniform radius
    share = COVERAGE[0] + (COVERAGE[1] - COVERAGE[0]) * noise.uniform((), step=0)
    number = share * height * width / mean_area  # (B,)
    slots = torch.arange(max(1, math.ceil(COVERAGE[1] * height * width / mean_area)), device=noise.device)
    u = noise.uniform((len(slots), 14), step=1)  # (B, N, 14)
    there = slots + u[..., 13] < number[:, None]  # the last, fractional drop is there with its probability
    return {
        "x": u[..., 0] * width,  # pixels
        "y": u[..., 1] * height,
        "radius": low * (high / low) ** u[..., 2] * there,  # pixels, the mean; 0 of a drop that is not there
        "wobble": (u[..., 3:6] - 0.5) * torch.tensor([0.24, 0.16, 0.10], device=u.device),  # of the outline,
        "phase": u[..., 6:9] * 2 * math.pi,  # harmonics 2 to 4: (B, N, 3) amplitudes and phases
        "power": 2.0 + 2.5 * u[..., 9],  # how much wider an angle the drop shows than the pane behind it
        "soft": 1.2 + 1.8 * u[..., 10],  # pixels, width of the blurred outline
        "shade": 0.25 + 0.45 * u[..., 11],  # of the rim
        "glint": torch.where(u[..., 12] < 0.4, 0.15 + u[..., 12], torch.zeros_like(u[..., 12])),  # the highlight
    }


def _nearest(drops: dict[str, Tensor], rows: Tensor, cols: Tensor) -> tuple[Tensor, Tensor]:
    """Which drop each pixel belongs to, and where in it: index (B, H, W) int64, q (B, H, W), 0 centre, 1 outline.

    One pass over the drops, each a few operations on the whole pane; where two overlap the deeper one wins.
    """
    best = torch.full((len(drops["x"]), len(rows), cols.shape[1]), math.inf, device=rows.device)
    index = torch.zeros(best.shape, dtype=torch.int64, device=rows.device)
    for n in range(drops["x"].shape[1]):
        x, y, radius = (drops[name][:, n, None, None] for name in ("x", "y", "radius"))
        if not bool((radius > 0).any()):
            continue
        dx, dy = cols[None] - x, (rows[None] - y) * 0.9  # gravity: a little taller than wide
        angle = torch.atan2(dy, dx)
        outline = torch.ones_like(angle)
        for k in range(3):
            wobble, phase = (drops[name][:, n, k, None, None] for name in ("wobble", "phase"))
            outline += wobble * torch.cos((k + 2) * angle + phase)
        q = torch.where(radius > 0, torch.sqrt(dx * dx + dy * dy) / (radius * outline), math.inf)
        closer = q < best
        best, index = torch.where(closer, q, best), torch.where(closer, n, index)
    return index, best


def _blur(image: Tensor) -> Tensor:
    """A triangle filter of 5x5 pixels, edges repeated."""
    channels = image.shape[1]
    weight = (image.new_tensor([1.0, 2.0, 3.0, 2.0, 1.0]) / 9).expand(channels, 1, 1, 5)
    x = F.conv2d(F.pad(image, (2, 2, 0, 0), mode="replicate"), weight, groups=channels)
    return F.conv2d(F.pad(x, (0, 0, 2, 2), mode="replicate"), weight.transpose(2, 3), groups=channels)
