"""Low light: what an underexposed camera would have delivered of a well-lit image.

Everything happens in linear light, in the order of a camera: exposure, colour cast of the light, shot and read noise,
clipping; then the sRGB curve, a tone curve that crushes the shadows, and 8 bits. The noise is Gaussian with the
variance of a Poisson-Gaussian sensor, a x + b^2 (Foi et al. 2008, "Practical Poissonian-Gaussian noise modeling and
fitting"); below ten photons or so a true Poisson variable would also be skewed.

Two laws: a narrow one (`low_light`, two to four stops), which the networks that answer the paper's questions are
trained and measured with, and a wide one (`wide_low_light`), made to look like real dark photographs.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from repro.engine.rng import KeyedNoise

# The narrow law: two to four stops under, 150 to 1,500 photons at white.
STOPS, GAMMA, CAST, PHOTONS, READ = (2.0, 4.0), (1.0, 1.3), (0.75, 1.33), (150.0, 1500.0), (0.0005, 0.002)


def srgb_to_linear(x: Tensor) -> Tensor:
    """sRGB values in [0, 1] to linear light (IEC 61966-2-1)."""
    return torch.where(x <= 0.04045, x / 12.92, ((x.clamp(min=0.04045) + 0.055) / 1.055) ** 2.4)


def linear_to_srgb(x: Tensor) -> Tensor:
    """Linear light in [0, 1] to sRGB values."""
    return torch.where(x <= 0.0031308, x * 12.92, 1.055 * x.clamp(min=0.0031308) ** (1 / 2.4) - 0.055)


def low_light(image: Tensor, settings: KeyedNoise, sensor: KeyedNoise) -> Tensor:
    """(B, 3, H, W) sRGB in [0, 1] -> the same scene underexposed by the narrow law, in multiples of 1/255.

    Uniform in STOPS (of exposure) and GAMMA (exponent on the sRGB values afterwards), log-uniform in CAST (factors on
    linear red and blue), PHOTONS at white and READ noise. `settings` and `sensor` give each sample's own numbers.
    """
    u = settings.uniform((6,))  # (B, 6)

    def wide(value: Tensor) -> Tensor:
        return value.to(image).reshape(len(image), -1, 1, 1)

    stops, gamma = (wide(low + (high - low) * u[:, i]) for i, (low, high) in enumerate((STOPS, GAMMA)))
    ranges = enumerate((CAST, CAST, PHOTONS, READ), start=2)
    red, blue, photons, read = (low * (high / low) ** u[:, i] for i, (low, high) in ranges)
    cast = torch.stack([red, torch.ones_like(red), blue], dim=1)
    light = srgb_to_linear(image) * wide(cast) * 2.0**-stops
    deviation = (wide(1.0 / photons) * light + wide(read) ** 2).sqrt()
    light = light + deviation * sensor.normal(tuple(image.shape[1:])).to(image)
    dark = linear_to_srgb(light.clamp(0, 1)) ** gamma
    return (dark * 255).round() / 255


# --- the wide law: what networks for use, and every new training, are trained with ------------------------------------

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


def wide_low_light(image: Tensor, noises: Callable[[str], KeyedNoise], stops: float | None) -> tuple[Tensor, Tensor]:
    """(B, 3, H, W) sRGB in [0, 1] -> the same scenes in the dark, in multiples of 1/255, and their stops / 6 (B,).

    As `low_light`, and wider in everything that real dark photographs differ in: one to six stops; light that is not
    even (a bright window, a lamp, corners further away, bright things that stay bright); bulbs and candles; noise from
    none to strong, in single pixels or, as after a camera's own smoothing, in grains; the tone curves of cameras.
    What comes with darkness fades out below one stop: at 0 an image keeps its 8 bits.

    `stops` fixes the exposure, in [0, 6]; None draws it uniformly in WIDE_STOPS.
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
    dark = ((dark - black) / (1 - black)).clamp(0, 1)
    return (dark * 255).round() / 255, under.flatten() / WIDE_STOPS[1]


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
        across, down = (turn.cos() * dx + turn.sin() * dy) / wide, (turn.cos() * dy - turn.sin() * dx) / high
        x2, y2 = across**2, down**2
        edge = 2 * 15 ** (2 * (v[7] - 0.5).clamp(min=0))
        window = torch.sigmoid(edge * (1 - x2 * x2 - y2 * y2))
        kept = torch.maximum(kept, there * torch.where(v[7] < 0.5, torch.exp(-x2 - y2), window))
    # Darker places than the exposure alone makes, only where it is dark at all.
    stops = under[:, 0] * (1 - kept) + field * (under[:, 0] / 2).clamp(max=1)
    return stops.clamp(0, DARKEST)[:, None]
