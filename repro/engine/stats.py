"""Intervals by bootstrap: over images, and over training seeds where there are several.

Values are a matrix (S training seeds, N sample units); a unit is an image, or a replicate of a set metric such as FID.
The same N test images are measured at every seed, so seeds and images are crossed, not nested: rows and columns are
resampled independently (Owen, "The pigeonhole bootstrap", 2007), the columns in common for the two sides of a
difference, which is what makes it paired.

Two corrections keep small samples honest. Percentiles are widened as a t interval is wider than a normal one
(Hesterberg, "What teachers should know about the bootstrap", 2015, the expanded percentile interval), and seed
deviations are scaled by sqrt(S / (S - 1)), since resampling S values shows only (S - 1) / S of their variance.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from repro.errors import ReproError

N_BOOT = 2000
LEVEL = 0.95
MIN_UNITS = 5  # with fewer, no resampling says anything about the spread

Matrix = Sequence[Sequence[float]] | Sequence[float] | np.ndarray


@dataclass(frozen=True)
class Interval:
    """An estimate with its bounds; `n` units, and training seeds on the left and (for a difference) the right side."""

    estimate: float
    low: float
    high: float
    n: int
    seeds: tuple[int, ...]

    @property
    def excludes_zero(self) -> bool:
        return self.low > 0 or self.high < 0


def mean_interval(values: Matrix) -> Interval:
    """Bootstrap interval of the mean of (N,) or (S, N) values. Raises `ReproError` under `MIN_UNITS` units."""
    return _interval([values])


def paired_difference(left: Matrix, right: Matrix, *, same_networks: bool = False) -> Interval:
    """Bootstrap interval of mean(left) - mean(right), (S, N) or (N,) each, paired over units: column i is the same
    image on both sides. `same_networks`: row s is the same trained network on both sides (two samplers of one model,
    say), so that seeds are resampled together. Raises `ReproError` under `MIN_UNITS` units."""
    return _interval([left, right], same_networks)


def _interval(values: Sequence[Matrix], together: bool = False) -> Interval:
    """Of the mean of one side, or the difference of two, with expanded percentiles."""
    from scipy.special import ndtr, stdtrit

    sides = [np.atleast_2d(np.asarray(side, dtype=np.float64)) for side in values]  # (S, N) each
    rng, n = np.random.default_rng(0), sides[0].shape[1]
    if n < MIN_UNITS:
        raise ReproError(f"{n} values, an interval needs at least {MIN_UNITS}")
    weights, spread = [], []
    for side in sides:
        count, level = len(side), side.mean(axis=1, keepdims=True)  # S, (S, 1)
        if not (together and weights):  # (N_BOOT, S) weights of the resampled rows; one seed keeps the weight 1
            even = np.full(count, 1 / count)
            drawn = rng.multinomial(count, even, size=N_BOOT) if count > 1 else np.ones((N_BOOT, 1))
        weights.append(drawn / count)
        spread.append(side + (math.sqrt(count / (count - 1)) - 1) * (level - level.mean()) if count > 1 else side)
    columns = rng.integers(0, n, size=(N_BOOT, n))
    left, *right = (weight @ side for weight, side in zip(weights, spread, strict=True))  # (N_BOOT, N) each
    draws = np.take_along_axis(left - right[0] if right else left, columns, axis=1).mean(axis=1)
    tail = float(ndtr(-math.sqrt(n / (n - 1)) * stdtrit(n - 1, (1 + LEVEL) / 2)))
    low, high = map(float, np.quantile(draws, [tail, 1 - tail]))
    estimate = float(sides[0].mean() - (sides[1].mean() if sides[1:] else 0.0))
    return Interval(estimate, low, high, n, tuple(len(side) for side in sides))
