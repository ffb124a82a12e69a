"""Raindrops on a pane while the camera focuses on the scene behind: large, soft, translucent, brighter or darker.

A drop is far out of focus. Light reaches a pixel partly past it, from the background, and partly through it: (1 - a)
background + a drop (the composite model of Qian et al. 2018, "Attentive Generative Adversarial Network for Raindrop
Removal"), in light, taken as the square of the stored value. `a` is the share of the lens that the drop covers: its
outline blurred by the defocus. The drop itself is a wide-angle image of the scene, upside down and blurred, mixed with
the light of the sky and the ground that the image does not show.

All drops of an image are one field, a sum of Gaussian hills over ellipses in coordinates that are bent a little: hills
that touch merge, as drops do. `rain`, below, has the sharp drops that older networks were trained with.
"""

import math
from itertools import product

import torch
from torch import Tensor
from torch.nn import functional as F

from repro.engine.rng import KeyedNoise

RADIUS = (3.0, 22.0)  # pixels of an image of about 256: an image's usual radius, log-uniform
SPREAD = 0.35  # natural logarithm: how far a drop's radius is from the usual one, standard deviation
COVERAGE = (0.05, 0.6)  # share of the pane under drops, before they overlap
ROOM = 320.0  # pixels per drop at least: limits the smallest ones
SOFT = (0.15, 1.6)  # width of the blurred outline in radii, log-uniform, at least 1.2 pixels
OPACITY = (0.35, 1.0)
POWER = (2.0, 7.0)  # angle that a drop shows, against the pane behind it
GAIN = (0.65, 2.0)  # of the light through a drop, log-uniform
BEND = 5.0  # pixels by which outlines are bent, at most
STREAK = 0.07  # share of drops that run down
LARGEST = 0.6  # coverage that can be chosen
LAW = (
    f"raindrops, out of focus, version 1: radius {RADIUS} spread {SPREAD}, coverage {COVERAGE}, room {ROOM}, "
    f"soft {SOFT}, opacity {OPACITY}, power {POWER}, gain {GAIN}, bend {BEND}, streaks {STREAK}"
)
_TILE = 96  # pixels: larger panes are drawn in tiles, each from the drops that reach it
_STEEP = 1.5  # a hill is exp(_STEEP (1 - q^2)), 1 at its outline q = 1
_REACH = 3.2  # radii: beyond, a hill is cut off at exactly nothing
_CELL = 14  # pixels between two knots of the bending


def wet_glass(
    image: Tensor, noise: KeyedNoise, coverage: float | None = None, sky: float = 0.0, film: float = 0.0
) -> tuple[Tensor, Tensor]:
    """(B, 3, H, W) in [0, 1] behind a wet pane: the images, and `a`, (B, 1, H, W) in [0, 1]. `coverage` fixes the share
    of the pane under drops, in [0, 0.6]; 0 returns the images as they are; None draws it for each sample. Of a share
    `sky` of the panes, drops show an even sky of any brightness more than the scene; a share `film` is misted, too."""
    height, width = image.shape[-2:]
    u = noise.uniform((16,)).to(image)  # (B, 16) of the whole pane

    def between(column: int, low: float, high: float) -> Tensor:  # (B, 1)
        return low + (high - low) * u[:, column, None]

    def log_between(column: int, low: float, high: float) -> Tensor:
        return between(column, math.log(low), math.log(high)).exp()

    usual = log_between(0, *RADIUS)
    share = between(1, *COVERAGE) if coverage is None else torch.full_like(usual, coverage)
    drops = _drops(noise, usual, share, (height, width))
    soft, opacity = log_between(2, *SOFT), between(3, *OPACITY)
    bend = (between(4, 0, 0.45) * usual).clamp(max=BEND)

    light = image.square()
    outline, here = _field(drops, bend, noise, (height, width))  # log of the field; (B, 5, H, W) of each pixel's drop
    x, y, radius, own_opacity, own_gain = here.unbind(1)  # each (B, H, W)
    wide = (soft[..., None] * radius).clamp(min=1.2)
    a = (0.5 + outline * radius / (2 * _STEEP * wide)).clamp(0, 1)  # the distance to the outline over its blur
    a = a * a * (3 - 2 * a)
    alpha = (opacity[..., None] * own_opacity * a)[:, None]  # (B, 1, H, W)

    # What a drop shows: the blurred scene, upside down and wide.
    rows = (torch.arange(height, device=image.device, dtype=image.dtype) + 0.5)[:, None]
    cols = (torch.arange(width, device=image.device, dtype=image.dtype) + 0.5)[None, :]
    power = between(5, *POWER)[..., None]
    dx, dy = cols - x, rows - y
    source = torch.stack([(x - power * dx) * (2 / width) - 1, (y - power * dy) * (2 / height) - 1], dim=-1)
    fine = small(light, 5)
    coarse = F.interpolate(small(fine, 4), size=fine.shape[-2:], mode="bilinear", align_corners=False)
    blurred = torch.lerp(fine, coarse, between(6, 0, 1)[..., None, None])
    view = F.grid_sample(blurred, source, mode="bilinear", padding_mode="reflection", align_corners=False)
    # The sky is below in a drop, and brighter than the rest; a drop's rim is dark, the more the better it is in focus.
    lit = between(7, -0.15, 0.9)[..., None] * (dy / radius).clamp(-1, 1)
    tint = 1 + 0.25 * (u[:, 8:11] - 0.5)  # (B, 3)
    ambient = fine.mean((1, 2, 3), keepdim=True) * log_between(11, 0.7, 2.2)[..., None, None] * tint[..., None, None]
    veil = between(12, 0.0, 0.7)[..., None, None]
    focus = (1 - soft / SOFT[1])[..., None]
    rim = between(13, 0, 0.7)[..., None] * focus * (1 - outline / _STEEP).clamp(0, 1) ** 3
    gain = log_between(14, *GAIN)[..., None] * own_gain
    if sky or film:
        v = noise.uniform((5,), step=7).to(image)[:, :, None, None, None].unbind(1)  # each (B, 1, 1, 1)
        blue = 0.39 * v[1] - 0.09
        skylight = (0.12 + 0.78 * v[2]) * torch.cat([1 - blue, torch.ones_like(blue), 1 + blue], dim=1)
        ambient, veil = torch.where(v[0] < sky, skylight, ambient), torch.where(v[0] < sky, 0.35 + 0.93 * veil, veil)
        even = (0.25 * (2 * u[:, 14, None, None] - 1)).exp() * own_gain**0.6
        gain = torch.where(v[0][:, 0] < sky, even, gain)
        mist = F.interpolate(noise.normal((1, 3, 3), step=8).to(image), size=(height, width), mode="bicubic")
        light = light + 0.3 * v[3] * (v[4] < film) * torch.sigmoid(1.5 * mist) * (ambient - light)
        image = torch.where(v[4] < film, light.clamp(0, 1).sqrt(), image)
    drop = (view + veil * (ambient - view)) * (gain * (1 + lit) * (1 - rim))[:, None]
    wet = (light + alpha * (drop - light)).clamp(0, 1).sqrt()
    return torch.where(alpha > 0, wet, image), alpha


def _drops(noise: KeyedNoise, usual: Tensor, share: Tensor, size: tuple[int, int]) -> dict[str, Tensor]:
    """(B, N) numbers of each drop; one that is not there has radius 0. Drops may lie off the pane and reach into it."""
    height, width = size
    margin = 1.5 * usual  # (B, 1)
    area = math.pi * usual.square() * math.exp(2 * SPREAD**2)  # of a mean drop
    pane = (height + 2 * margin) * (width + 2 * margin)
    number = torch.minimum(share / area, torch.full_like(area, 1 / ROOM)) * pane
    most = math.sqrt(LARGEST * ROOM / math.pi)  # usual radius up to which `ROOM` may be what limits
    slots = math.ceil((height + 3 * most) * (width + 3 * most) / ROOM)
    u = noise.uniform((slots, 12), step=1).to(usual)  # (B, N, 12)
    there = torch.arange(slots, device=u.device) + u[..., 11] < number
    bell = (u[..., 2:5].sum(dim=-1) - 1.5) * 2  # nearly normal, deviation 1
    radius = usual * (SPREAD * bell).exp()
    x, y = u[..., 0] * (width + 2 * margin) - margin, u[..., 1] * (height + 2 * margin) - margin
    # Every third drop leans on the one before it: the two merge.
    leans = u[..., 5] < 1 / 3
    leans[:, 0] = False
    angle, away = 2 * math.pi * u[..., 6], 0.8 + 0.8 * u[..., 7]
    x = torch.where(leans, x.roll(1, 1) + away * radius * angle.cos(), x)
    y = torch.where(leans, y.roll(1, 1) + away * radius * angle.sin(), y)
    streak = u[..., 8] < STREAK
    tall = torch.where(streak, 2.5 + 3 * u[..., 9], 0.8 + 0.6 * u[..., 9])  # height over width
    turn = torch.where(streak, 0.3 * (u[..., 10] - 0.5), math.pi * u[..., 10])
    own = u[..., 6]  # independent of where it lies unless it leans
    place = {"x": x, "y": y, "turn": turn, "across": radius / tall.sqrt(), "along": radius * tall.sqrt()}
    light = {"opacity": 0.45 + 0.55 * u[..., 2], "gain": (0.7 * (own - 0.5)).exp()}
    return {**place, "radius": torch.where(there, radius, 0.0), **light}


def _field(drops: dict[str, Tensor], bend: Tensor, noise: KeyedNoise, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """log of the summed hills (B, H, W), 0 at an outline, and each pixel's x, y, radius, opacity and gain."""
    height, width = size
    knots = noise.normal((2, height // _CELL + 2, width // _CELL + 2), step=2).to(bend)
    bent = F.interpolate(knots, size=size, mode="bicubic", align_corners=True) * (0.5 * bend[..., None, None])
    at_x = bent[:, 0] + torch.arange(width, device=bend.device, dtype=bend.dtype) + 0.5  # (B, H, W)
    at_y = bent[:, 1] + (torch.arange(height, device=bend.device, dtype=bend.dtype) + 0.5)[:, None]
    outline, here = at_x.new_empty(at_x.shape), at_x.new_empty(len(at_x), 5, height, width)
    rows, cols = ([slice(start, start + _TILE) for start in range(0, side, _TILE)] for side in size)
    for b in range(len(at_x)):  # sample by sample: only its own drops, and arrays that fit a processor's cache
        own = {name: value[b] for name, value in drops.items()}
        for down, right in product(rows, cols):
            x, y = at_x[b, down, right], at_y[b, down, right]
            reach = _REACH * torch.maximum(own["along"], own["across"])
            away_x = torch.maximum(x.min() - own["x"], own["x"] - x.max())
            away_y = torch.maximum(y.min() - own["y"], own["y"] - y.max())
            near = ((away_x < reach) & (away_y < reach) & (own["radius"] > 0)).nonzero().flatten()
            outline[b, down, right], here[b, :, down, right] = _hills({k: v[near] for k, v in own.items()}, x, y)
    return outline, here


def _hills(drops: dict[str, Tensor], at_x: Tensor, at_y: Tensor) -> tuple[Tensor, Tensor]:
    """One sample's field over the points (h, w): log (h, w) and (5, h, w). A drop's q^2 is a quadratic form, and all of
    them are one matrix product with x^2, xy, y^2, x, y and 1."""
    if not len(drops["x"]):
        return torch.full_like(at_x, -math.inf), at_x.new_ones(5, *at_x.shape)
    middle_x, middle_y = at_x.mean(), at_y.mean()
    px, py = (at_x - middle_x).flatten(), (at_y - middle_y).flatten()  # (P,)
    x, y = drops["x"] - middle_x, drops["y"] - middle_y  # (N,)
    cos, sin = drops["turn"].cos(), drops["turn"].sin()
    p, q = drops["across"].square().reciprocal(), drops["along"].square().reciprocal()
    xx, yy, xy = p * cos * cos + q * sin * sin, p * sin * sin + q * cos * cos, 2 * (p - q) * sin * cos
    form = [xx, xy, yy, -2 * xx * x - xy * y, -2 * yy * y - xy * x, xx * x * x + xy * x * y + yy * y * y]
    points = torch.stack([px * px, px * py, py * py, px, py, torch.ones_like(px)])  # (6, P)
    hills = (torch.stack(form, dim=1) @ points).mul_(-_STEEP).clamp_(max=0).add_(_STEEP).exp_()  # (N, P)
    hills = hills.sub_(math.exp(_STEEP * (1 - _REACH**2))).clamp_(min=0)
    own = torch.stack([torch.ones_like(x), *(drops[k] for k in ("x", "y", "radius", "opacity", "gain"))])
    total, *rest = (own @ hills).unbind(0)  # (6, N) @ (N, P)
    here = torch.stack(rest) / total.clamp(min=1e-9)
    here[2].clamp_(min=1)  # a radius is divided by
    outline = torch.where(total > 0, total.clamp(min=1e-9).log(), -math.inf)
    return outline.view_as(at_x), here.view(5, *at_x.shape)


def small(light: Tensor, cell: int) -> Tensor:
    """Means of about `cell` by `cell` pixels."""
    return F.interpolate(light, size=[math.ceil(side / cell) for side in light.shape[-2:]], mode="area")


# --- sharp drops: lenses that show the scene upside down, on which the networks of the study are trained -------------

LENS_RADIUS = (2.5, 10.0)  # pixels, log-uniform
LENS_COVERAGE = (0.06, 0.22)  # share of the pane under drops, before they overlap


def rain(image: Tensor, noise: KeyedNoise) -> Tensor:
    """(B, 3, H, W) in [0, 1] behind a pane with sharp drops, their share uniform in LENS_COVERAGE, each sample its own.

    A drop refracts a wide angle of the scene, inverted; the view is compressed towards its rim, which is dark where
    light is totally reflected; its outline is soft; many carry a small highlight. Nothing of the background is left
    in a drop's middle: it has to be painted in. Where a drop looks beyond the image's edge, the image is mirrored.
    """
    height, width = image.shape[-2:]
    drops = _lenses(noise, (height, width))
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
    # A view compressed by `power` has no detail finer than a triangle filter of 5x5 pixels leaves; edges are repeated.
    weight = (image.new_tensor([1.0, 2.0, 3.0, 2.0, 1.0]) / 9).expand(3, 1, 1, 5)
    blurred = F.conv2d(F.pad(image, (2, 2, 0, 0), mode="replicate"), weight, groups=3)
    blurred = F.conv2d(F.pad(blurred, (0, 0, 2, 2), mode="replicate"), weight.transpose(2, 3), groups=3)
    view = F.grid_sample(blurred, source * 2 - 1, mode="bilinear", padding_mode="reflection", align_corners=False)

    rim = ((depth - 0.55) / 0.45).clamp(0, 1) ** 2
    light = 1 - of("shade") * rim
    shine_x, shine_y = x + 0.35 * radius, y - 0.4 * radius
    width2 = (0.16 * radius).clamp(min=0.7) ** 2
    glint = of("glint") * torch.exp(-((cols - shine_x) ** 2 + (rows - shine_y) ** 2) / (2 * width2))
    lens = view * light[:, None] + glint[:, None] * (1 - view)
    return (image + mask * (lens - image)).clamp(0, 1)


def _lenses(noise: KeyedNoise, size: tuple[int, int]) -> dict[str, Tensor]:
    """Drops of each sample, (B, N) numbers each."""
    height, width = size
    low, high = LENS_RADIUS
    mean_area = math.pi * (high**2 - low**2) / (2 * math.log(high / low))  # of a log-uniform radius
    share = LENS_COVERAGE[0] + (LENS_COVERAGE[1] - LENS_COVERAGE[0]) * noise.uniform((), step=0)
    number = share * height * width / mean_area  # (B,)
    slots = torch.arange(max(1, math.ceil(LENS_COVERAGE[1] * height * width / mean_area)), device=noise.device)
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
    """The drop of each pixel, and its place there: index (B, H, W) int64, q (B, H, W), 0 centre, 1 outline. Where two
    overlap, the deeper one counts."""
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
