"""The degradations that restoration networks are trained for, by name: `TASKS["raindrops"].degrade(images, noises)`.

Settings are drawn for each sample, from its own random numbers, so that a degraded crop does not depend on its batch.
Lengths are those of images whose shorter side is about 256 pixels: a crop is degraded like a part of one. Raindrops are
in `wetglass`.

Low light is an underexposed photograph. Everything happens in linear light, in the order of a camera: exposure, colour
cast of the light, shot and read noise, clipping; then the sRGB curve, a tone curve that crushes the shadows, and 8
bits. The noise is Gaussian with the variance of a Poisson-Gaussian sensor, a x + b^2 (Foi et al. 2008, "Practical
Poissonian-Gaussian noise modeling and fitting"). There are two laws: a narrow one (`low_light`, two to four stops) for
RDDM's networks, and a wide one (`wide_low_light`), made to look like real dark photographs, for UCDIR's.
"""

import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from repro.data import wetglass
from repro.engine.rng import KeyedNoise, Noises
from repro.errors import ReproError, within

STOPS, GAMMA, CAST, PHOTONS, READ = (2.0, 4.0), (1.0, 1.3), (0.75, 1.33), (150.0, 1500.0), (0.0005, 0.002)
LOW_LIGHT_LAW = str((STOPS, GAMMA, CAST, PHOTONS, READ))


def srgb_to_linear(x: Tensor) -> Tensor:
    """sRGB values in [0, 1] to linear light (IEC 61966-2-1)."""
    return torch.where(x <= 0.04045, x / 12.92, ((x.clamp(min=0.04045) + 0.055) / 1.055) ** 2.4)


def linear_to_srgb(x: Tensor) -> Tensor:
    """Linear light in [0, 1] to sRGB values."""
    return torch.where(x <= 0.0031308, x * 12.92, 1.055 * x.clamp(min=0.0031308) ** (1 / 2.4) - 0.055)


def low_light(image: Tensor, noises: Noises) -> Tensor:
    """(B, 3, H, W) sRGB in [0, 1] -> the same scene underexposed by the narrow law, in multiples of 1/255.

    Uniform in STOPS (of exposure) and GAMMA (exponent on the sRGB values afterwards), log-uniform in CAST (factors on
    linear red and blue), PHOTONS at white and READ noise.
    """
    u = noises("degrade/settings").uniform((6, 1, 1, 1)).unbind(1)  # each (B, 1, 1, 1)
    stops, gamma = ((low + (high - low) * v).to(image) for v, (low, high) in zip(u[:2], (STOPS, GAMMA), strict=True))
    ranges = zip(u[2:], (CAST, CAST, PHOTONS, READ), strict=True)
    red, blue, photons, read = (low * (high / low) ** v for v, (low, high) in ranges)
    cast = torch.cat([red, torch.ones_like(red), blue], dim=1).to(image)
    light = srgb_to_linear(image) * cast * 2.0**-stops
    deviation = ((1.0 / photons).to(image) * light + read.to(image) ** 2).sqrt()
    light = light + deviation * noises("degrade/sensor").normal(tuple(image.shape[1:])).to(image)
    return (linear_to_srgb(light.clamp(0, 1)) ** gamma * 255).round() / 255


WIDE_STOPS = (1.0, 6.0)
DARKEST = 6.5  # stops: no place of a scene is darker than this, or nothing would be left of it in 8 bits
WIDE_PHOTONS, WIDE_READ = (60.0, 100_000.0), (0.0001, 0.006)  # from hardly any noise to a telephone at night
WARM, TINT = (-0.6, 1.5), 0.25  # stops between red and blue light, of bulbs and candles; stops of green
WIDE_GAMMA, CONTRAST, BLACK = (0.85, 1.3), (-0.2, 0.4), 0.03  # the camera's tone curve
LAMPS, LAMP_SIZE, LAMP_CHANCE = 2, (14.0, 130.0), 0.4  # bright windows and pools of light: pixels from middle to edge
WIDE_LAW = (
    f"low light, wide, version 1: stops {WIDE_STOPS}, at most {DARKEST}; photons {WIDE_PHOTONS}, read {WIDE_READ}; "
    f"warm {WARM}, tint {TINT}; gamma {WIDE_GAMMA}, contrast {CONTRAST}, black {BLACK}; "
    f"{LAMPS} lamps {LAMP_SIZE}, chance {LAMP_CHANCE}"
)


def wide_low_light(image: Tensor, noises: Noises, stops: float | None) -> tuple[Tensor, Tensor]:
    """(B, 3, H, W) sRGB in [0, 1] -> the same scenes in the dark, in multiples of 1/255, and their stops / 6 (B,).

    As `low_light`, and wider in everything that real dark photographs differ in: light that is not even (a bright
    window, a lamp, corners further away, bright things that stay bright); bulbs and candles; noise from none to strong,
    in single pixels or, as after a camera's own smoothing, in grains; the tone curves of cameras. All of it fades out
    below one stop. `stops` fixes the exposure, in [0, 6]; None draws it uniformly in WIDE_STOPS.
    """
    settings, sensor = noises("degrade/settings"), noises("degrade/sensor")
    u = settings.uniform((14,)).to(image)  # (B, 14)

    def between(column: int, low: float, high: float) -> Tensor:  # (B, 1, 1, 1)
        return (low + (high - low) * u[:, column])[:, None, None, None]

    def log_between(column: int, low: float, high: float) -> Tensor:
        return between(column, math.log2(low), math.log2(high)).exp2()

    under = between(0, *WIDE_STOPS) if stops is None else torch.full_like(u[:, :1, None, None], float(stops))
    fade = under.clamp(max=1)
    light = srgb_to_linear(image)
    field = _uneven(light, under, settings)  # (B, 1, H, W) stops
    # Half of the scenes have nearly white light, the others any.
    warm = between(1, *WARM) * torch.where(u[:, 2, None, None, None] < 0.5, 0.3, 1.0)
    cast = torch.cat([0.4 * warm, TINT * between(3, -1, 1), -0.6 * warm], dim=1)  # (B, 3, 1, 1) stops
    light = light * (fade * cast - field).exp2()

    drawn = sensor.normal(tuple(image.shape[1:])).to(image)
    rows = drawn + drawn.roll(1, -2) + drawn.roll(-1, -2)
    grains = (rows + rows.roll(1, -1) + rows.roll(-1, -1)) / 3  # 3 by 3 pixels, deviation 1
    mix = between(4, 0, 1) ** 2
    grainy = (1 - mix) * drawn + mix * grains
    grainy = grainy / ((1 - mix).square() + mix.square() + 2 / 3 * mix * (1 - mix)).sqrt()  # their covariance is 1/3
    deviation = (light / log_between(5, *WIDE_PHOTONS) + log_between(6, *WIDE_READ).square()).sqrt()
    dark = linear_to_srgb((light + fade * deviation * grainy).clamp(0, 1))

    dark = dark ** (1 + fade * (between(7, *WIDE_GAMMA) - 1))
    dark = dark + fade * between(8, *CONTRAST) * (dark * dark * (3 - 2 * dark) - dark)
    black = fade * between(9, -BLACK, BLACK).clamp(min=0)  # half of the cameras cut nothing off
    return (((dark - black) / (1 - black)).clamp(0, 1) * 255).round() / 255, under.flatten() / WIDE_STOPS[1]


LIT = (1.5, 5.0)  # stops between red and blue in the light of bulbs and candles
LAMP_REACH = (8.0, 50.0)  # pixels at which the light of a lamp has fallen to a half


def lamp_light(
    image: Tensor, noises: Noises, share: float = 0.4, near: float = 5.0, vivid: float = 0.5, kept: float = 0.4,
    windows: float = 0.0,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """(B, 3, H, W) sRGB in [0, 1] -> what a network shall make of them, and what is darkened for it (above 1 beside a
    lamp), both in multiples of 1/255: a `share` of the scenes in the light of bulbs or candles, warm all over or on one
    side, most of them brighter around a lamp, by up to `near` stops. The darkened scene has all of that light, in
    colours that the camera makes stronger by up to `vivid`, and is often pure red in the end; the target keeps the
    share `kept` of its stops. (`wide_low_light` has weaker casts, which a network takes away.)
    Where `windows` is above 0, that share of the lit scenes has a window of daylight, up to three stops brighter, and
    bluish things keep daylight: from skies lit by a bulb a network learns to make whites in warm light blue.
    """
    height, width = image.shape[-2:]
    u = noises("lamp").uniform((11,)).to(image)[:, :, None, None].unbind(1)  # each (B, 1, 1)
    rows = torch.arange(height, device=image.device)[:, None] + 0.5
    cols = torch.arange(width, device=image.device) + 0.5
    angle = 2 * math.pi * u[1]
    across = angle.cos() * (cols / width - 0.5) + angle.sin() * (rows / height - 0.5)
    side = torch.sigmoid(8 * across + 4 * (2 * u[2] - 1))
    warm = (LIT[0] + (LIT[1] - LIT[0]) * u[3]) * torch.where(u[4] < 0.5, 1.0, side)
    # Red gains about a third of the stops, so that brightness stays; green is between red and blue.
    stops = torch.stack([0.35 * warm, (0.05 - 0.25 * u[5]) * warm, -0.65 * warm], dim=1)  # (B, 3, H, W)
    reach = LAMP_REACH[0] * (LAMP_REACH[1] / LAMP_REACH[0]) ** u[6]
    far = ((cols - u[7] * (width + 120) + 60).square() + (rows - u[8] * (height + 120) + 60).square()) / reach.square()
    stops = stops + (torch.log2(1 + ((near * u[9]).exp2() - 1) / (1 + far)) * (u[10] < 0.7))[:, None]
    if windows:
        v = noises("window").uniform((7,)).to(image)[:, :, None, None].unbind(1)
        wide, high = (LAMP_SIZE[0] * (LAMP_SIZE[1] / LAMP_SIZE[0]) ** v[k] for k in (0, 1))
        edge = 1 - ((cols - v[2] * (width + 120) + 60) / wide) ** 4 - ((rows - v[3] * (height + 120) + 60) / high) ** 4
        day = torch.sigmoid(2 * 15 ** v[4] * edge) * (v[5] < windows)
        day = torch.maximum(day, (5 * (image[:, 2] - image[:, 0])).clamp(0, 1))
        stops = torch.lerp(stops, 3 * v[6][:, None], day[:, None])
    target, scene = (srgb_to_linear(image) * (part * stops).exp2() for part in (kept, 1.0))
    grey = 0.2126 * scene[:, :1] + 0.7152 * scene[:, 1:2] + 0.0722 * scene[:, 2:]
    scene = grey + (1 + vivid * u[0][:, None] / share) * (scene - grey)
    lit = (u[0] < share)[:, None]
    target, scene = ((linear_to_srgb(x) * 255).round() / 255 for x in (target.clamp(0, 1), scene.clamp(min=0)))
    return torch.where(lit, target, image), torch.where(lit, scene, image)


def _uneven(light: Tensor, under: Tensor, settings: KeyedNoise) -> Tensor:
    """(B, 1, H, W) by how many stops each place is darkened, for (B, 1, 1, 1) stops in all."""
    height, width = light.shape[-2:]
    u = settings.uniform((8 + 8 * LAMPS,), step=1).to(light)[..., None, None]  # (B, numbers, 1, 1)
    rows = (torch.arange(height, device=light.device, dtype=light.dtype) + 0.5)[:, None]
    cols = (torch.arange(width, device=light.device, dtype=light.dtype) + 0.5)[None, :]
    # Light falls off across a room, and towards an image's corners.
    angle, slope = 2 * math.pi * u[:, 0], 1.4 * u[:, 1] ** 2
    field = slope / 128 * (angle.cos() * (cols - width / 2) + angle.sin() * (rows - height / 2))
    middle_x, middle_y = width / 2 + 96 * (u[:, 2] - 0.5), height / 2 + 96 * (u[:, 3] - 0.5)
    corners = 1.2 * (2 * u[:, 4] - 1).clamp(min=0) / 128**2
    field = field + (corners * ((cols - middle_x) ** 2 + (rows - middle_y) ** 2)).clamp(max=2.5)
    # Bright things stay bright: a scene with lamps and windows has a wider range than the image shows.
    kept = 1.1 * (2 * u[:, 5] - 1).clamp(min=0) * light.mean(dim=1)
    for lamp in range(LAMPS):
        v = u[:, 8 + 8 * lamp : 16 + 8 * lamp].unbind(1)  # each (B, 1, 1)
        there = (v[0] < LAMP_CHANCE) * (0.5 + 0.55 * v[1])
        wide, high = (LAMP_SIZE[0] * (LAMP_SIZE[1] / LAMP_SIZE[0]) ** v[k] for k in (2, 3))
        dx, dy = cols - (v[4] * (width + 120) - 60), rows - (v[5] * (height + 120) - 60)
        turn = 0.8 * (v[6] - 0.5)
        x2, y2 = ((turn.cos() * dx + turn.sin() * dy) / wide) ** 2, ((turn.cos() * dy - turn.sin() * dx) / high) ** 2
        edge = 2 * 15 ** (2 * (v[7] - 0.5).clamp(min=0))
        window = torch.sigmoid(edge * (1 - x2 * x2 - y2 * y2))
        kept = torch.maximum(kept, there * torch.where(v[7] < 0.5, torch.exp(-x2 - y2), window))
    # Darker places than the exposure alone makes, only where it is dark at all.
    stops = under[:, 0] * (1 - kept) + field * (under[:, 0] / 2).clamp(max=1)
    return stops.clamp(0, DARKEST)[:, None]


def plain_surfaces(image: Tensor, noises: Noises, share: float) -> Tensor:
    """(B, 3, H, W) in [0, 1] -> a `share` of the images with a plain surface in front, like the roads, walls and poles
    that photographs of animals and plants lack. It fills the image, one side of a straight line, or a bar; it has any
    tone, nearly grey and nearly even, a little of the image's own fine detail, and grain."""
    height, width = image.shape[-2:]
    noise = noises("plain")
    u = noise.uniform((16,)).to(image)[:, :, None, None, None].unbind(1)  # each (B, 1, 1, 1)
    coarse = F.interpolate(wetglass.small(image, 8), size=(height, width), mode="bicubic")
    knots = F.interpolate(noise.normal((3, 3, 3), step=1).to(image), size=(height, width), mode="bicubic")
    even = knots.mean(dim=1, keepdim=True)
    grain = noise.normal((1, height, width), step=2).to(image)
    grain = torch.where(u[0] < 0.5, grain, 2 * F.avg_pool2d(grain, 3, 1, 1))
    tone = 0.08 + 0.8 * u[1] + 0.1 * (torch.cat(u[2:5], dim=1) - 0.5) + 0.08 * u[5] * (even + 0.15 * (knots - even))
    surface = tone + (0.05 + 0.75 * u[6] ** 2) * (image - coarse) + 0.05 * u[7] * grain

    quarters = 4 * u[8]  # straight lines are mostly upright or level
    angle = math.pi / 2 * (quarters.round() + 4 * (quarters - quarters.round()) ** 3)
    rows = torch.arange(height, device=image.device)[:, None] + 0.5 - height * u[9]
    cols = torch.arange(width, device=image.device) + 0.5 - width * u[10]
    across = angle.cos() * cols + angle.sin() * rows
    bar = 2 * 12 ** u[11] - across.abs()
    inside = torch.where(u[12] < 0.35, 1.0, torch.where(u[12] < 0.7, across, bar)).clamp(0, 1) * (u[13] < share)
    return image + inside * (surface.clamp(0, 1) - image)


LENGTH = (2.0, 21.0)  # of motion blur: pixels along the path, uniform
SIGMA = (0.001, 0.01)  # its noise, standard deviation of values in [0, 1], log-uniform
_TERMS, _POINTS = 4, 64
_HALF = 14  # of a kernel of 29 pixels: no point of a path lies further from its centroid
BLUR_LAW = f"motion blur, version 1: length {LENGTH}, sigma {SIGMA}, {_TERMS} terms, {_POINTS} points, half {_HALF}"
QUALITY = (5, 40)  # of JPEG: whole numbers, both included
SUBSAMPLING = "4:2:0"
JPEG_LAW = f"JPEG, version 1: quality {QUALITY}, {SUBSAMPLING}"


def _path_kernels(noise: KeyedNoise, length: Tensor) -> Tensor:
    """(B, 29, 29) kernels, each of sum 1, of paths of (B,) `length` pixels; their centroid is the middle, so that blur
    does not shift an image. A path is a smooth random curve, its first few cosine terms normal with variances that fall
    as in a hand's slow tremor, brought to its length; its kernel sums bilinear tents at points of equal times."""
    t = (torch.arange(_POINTS, device=noise.device) + 0.5) / _POINTS
    k = torch.arange(1, _TERMS + 1, device=noise.device)
    waves = torch.cos(math.pi * k[:, None] * t[None]) / k[:, None] ** 2.0  # (terms, points), each of mean 0
    drawn = noise.normal((_TERMS, 2))
    path = sum(drawn[:, k, None] * waves[k, :, None] for k in range(_TERMS))  # in one order whatever the batch
    travelled = path.diff(dim=1).norm(dim=2).sum(dim=1)  # (B,)
    path = path * (length.to(path) / travelled.clamp(min=1e-9))[:, None, None]  # (B, points, 2) x and y
    grid = torch.arange(-_HALF, _HALF + 1, device=path.device, dtype=path.dtype)
    x, y = ((1 - (path[:, None, :, c] - grid[None, :, None]).abs()).clamp(min=0) for c in (0, 1))  # (B, 29, points)
    kernels = torch.bmm(y, x.transpose(1, 2))
    return kernels / kernels.sum(dim=(1, 2), keepdim=True)


def motion_blur(image: Tensor, noises: Noises, length: float | None) -> tuple[Tensor, Tensor]:
    """(B, 3, H, W) in [0, 1] -> the images of shaken cameras in multiples of 1/255, and their paths' lengths / 21 (B,).

    The image is averaged along the camera's path in light, the square of the stored value (close to sRGB's curve and
    much cheaper), so that bright points leave bright lines; its edges are mirrored. A little Gaussian noise and 8 bits
    follow. `length` fixes the path's length in [0, 21] pixels, 0 returns the images as they are; None draws it.
    """
    if min(image.shape[-2:]) <= _HALF:
        raise ReproError(f"deblur: more than {_HALF} pixels a side are needed: got {tuple(image.shape)}")
    noise, sensor = noises("degrade/path"), noises("degrade/sensor")
    u = noise.uniform((2,), step=1).to(image)
    lengths = LENGTH[0] + (LENGTH[1] - LENGTH[0]) * u[:, 0] if length is None else torch.full_like(u[:, 0], length)
    kernels = _path_kernels(noise, lengths).to(image)
    light = F.pad(image.square(), (_HALF,) * 4, mode="reflect").flatten(0, 1)  # (3B, H, W)
    weight = kernels.flip(1, 2).repeat_interleave(3, dim=0)[:, None]  # convolution, not correlation
    # Whole sixteens of channels: what is left over is rounded in another way, which would depend on the batch.
    more = -len(light) % 16
    light, weight = F.pad(light, (0, 0, 0, 0, 0, more)), F.pad(weight, (0, 0, 0, 0, 0, 0, 0, more))
    blurred = F.conv2d(light[None], weight, groups=len(light))[0, : 3 * len(image)].view_as(image).clamp(min=0).sqrt()
    sigma = SIGMA[0] * (SIGMA[1] / SIGMA[0]) ** u[:, 1, None, None, None]
    blurred = (blurred + sigma * sensor.normal(tuple(image.shape[1:])).to(image)).clamp(0, 1)
    blurred = (blurred * 255).round() / 255
    return torch.where((lengths > 0)[:, None, None, None], blurred, image), lengths / LENGTH[1]


def jpeg(image: Tensor, quality: Sequence[int]) -> Tensor:
    """(B, 3, H, W) in [0, 1] -> the images after JPEG of each one's `quality`, 1 to 100, by the real encoder (Pillow's
    libjpeg), colour at half the resolution (4:2:0), as on the web."""
    pixels = (image * 255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    out = np.empty_like(pixels)
    for into, image_pixels, q in zip(out, pixels, quality, strict=True):
        file = io.BytesIO()
        Image.fromarray(image_pixels).save(file, "JPEG", quality=int(q), subsampling=SUBSAMPLING)
        into[...] = np.asarray(Image.open(file))
    return torch.from_numpy(out).to(image.device).permute(0, 3, 1, 2).to(image.dtype).contiguous() / 255


@dataclass(frozen=True)
class Degradation:
    """One kind of degradation."""

    name: str
    law: str  # what the settings are drawn from, for the hash of a data set: another law makes other data
    setting: str  # the one setting that may be fixed for all samples
    accepts: tuple[float, float]  # its smallest and largest value
    draw: Callable[[Tensor, Noises, float | None], tuple[Tensor, Tensor]]

    def degrade(self, images: Tensor, noises: Noises, **fixed: float) -> tuple[Tensor, Tensor]:
        """(B, 3, H, W) in [0, 1] -> the degraded images, of the same shape and range, and their strengths (B,).

        `fixed` gives `setting` one value for all samples instead of drawing it, e.g. quality=10. Raises `ReproError`
        for another setting, a value out of range and images of another shape. A strength is stops of underexposure / 6,
        the share of the light that comes through drops, the length of the camera's path / 21, (100 - quality) / 100.
        """
        low, high = self.accepts
        if images.ndim != 4 or images.shape[1] != 3:
            raise ReproError(f"{self.name}: images of shape (B, 3, H, W) are needed: got {tuple(images.shape)}")
        if unknown := sorted(fixed.keys() - {self.setting}):
            raise ReproError(f"{self.name}: setting {unknown[0]!r} is unknown; accepted: {self.setting}")
        value = fixed.get(self.setting)
        if value is not None:
            within(f"{self.name}: {self.setting}", value, low, high)
        # Autocast would make blur kernels and the drops' outlines with three digits.
        with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
            degraded, strength = self.draw(images, noises, value)
        return degraded, strength.clamp(0, 1)


def raindrops(images: Tensor, noises: Noises, coverage: float | None, **shares: float) -> tuple[Tensor, Tensor]:
    """`wetglass.wet_glass`, and the share of the light that comes through drops (B,)."""
    degraded, alpha = wetglass.wet_glass(images, noises("degrade/drops"), coverage, **shares)
    return degraded, alpha.mean(dim=(1, 2, 3))


def _jpeg(images: Tensor, noises: Noises, quality: float | None) -> tuple[Tensor, Tensor]:
    drawn = noises("degrade/quality").integers(QUALITY[0], QUALITY[1] + 1).tolist()
    drawn = drawn if quality is None else [quality] * len(images)
    return jpeg(images, drawn), (100 - torch.tensor(drawn, dtype=images.dtype, device=images.device)) / 100


TASKS: dict[str, Degradation] = {
    task.name: task
    for task in (
        Degradation("lowlight", WIDE_LAW, "stops", (0.0, WIDE_STOPS[1]), wide_low_light),
        Degradation("raindrops", wetglass.LAW, "coverage", (0.0, wetglass.LARGEST), raindrops),
        Degradation("deblur", BLUR_LAW, "length", (0.0, LENGTH[1]), motion_blur),
        Degradation("jpeg", JPEG_LAW, "quality", (1, 100), _jpeg),
    )
}
