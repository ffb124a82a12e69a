"""Low light against the camera's own arithmetic: exposure, cast, gamma and bits exactly, the noise by its moments."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from repro.data import lowlight
from repro.data.lowlight import LowLight, draw_low_light, linear_to_srgb, low_light, srgb_to_linear
from repro.engine.rng import KeyedNoise
from repro.errors import ReproError

PICTURES = KeyedNoise(0, range(5), "test/pictures").uniform((3, 24, 20))


def settings(size: int = 5, stops=0.0, gamma=1.0, cast=(1.0, 1.0, 1.0), shot=0.0, read=0.0) -> LowLight:
    one = torch.ones(size)
    return LowLight(one * stops, one * gamma, torch.tensor(cast).expand(size, 3), one * shot, one * read)


def to_linear(x: np.ndarray) -> np.ndarray:
    """IEC 61966-2-1, written down a second time."""
    return np.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4)


def to_srgb(x: np.ndarray) -> np.ndarray:
    return np.where(x <= 0.0031308, 12.92 * x, 1.055 * np.maximum(x, 1e-12) ** (1 / 2.4) - 0.055)


def test_the_curve_is_srgb_and_its_inverse():
    x = torch.linspace(0, 1, 1001, dtype=torch.float64)
    torch.testing.assert_close(linear_to_srgb(srgb_to_linear(x)), x, rtol=0, atol=2e-7)
    assert srgb_to_linear(torch.tensor(0.5, dtype=torch.float64)).item() == pytest.approx(0.21404114, abs=1e-8)
    assert srgb_to_linear(x).numpy() == pytest.approx(to_linear(x.numpy()), abs=1e-12)


@pytest.mark.parametrize("stops", [0.0, 1.0, 2.5, 4.0])
@pytest.mark.parametrize(("cast", "gamma"), [((1.0, 1.0, 1.0), 1.0), ((0.8, 1.0, 1.25), 1.3)])
def test_without_noise_the_light_is_cut_by_the_stops_and_the_cast(stops, cast, gamma):
    found = low_light(PICTURES, settings(stops=stops, gamma=gamma, cast=cast), None).double().numpy() * 255
    light = to_linear(PICTURES.double().numpy()) * np.array(cast)[:, None, None] * 2.0**-stops
    exact = 255 * to_srgb(light.clip(0, 1)) ** gamma
    assert np.abs(found - exact).max() <= 0.5 + 1e-3, "further from the exact value than rounding to 8 bits"
    assert np.abs(found - found.round()).max() < 1e-4


def test_no_stops_and_no_noise_leave_an_8_bit_picture():
    eight = (PICTURES * 255).round() / 255
    torch.testing.assert_close(low_light(eight, settings(), None), eight, rtol=0, atol=1e-6)


def test_darker_with_every_stop():
    pictures = [low_light(PICTURES, settings(stops=s), None) for s in (0.0, 0.5, 2.0, 3.0, 6.0)]
    for brighter, darker in pairwise(pictures):
        assert (darker <= brighter).all() and darker.mean() < brighter.mean()


@pytest.mark.parametrize(("shot", "read"), [(0.004, 0.0), (0.0, 0.02), (0.003, 0.01)])
def test_the_variance_is_that_of_a_poisson_gaussian_sensor(shot, read):
    """a x + b^2 of the light that reaches the sensor; the levels lie too far from 0 and 1 to be clipped."""
    levels, stops = torch.tensor([0.1, 0.25, 0.45, 0.7]), 1.0
    flat = linear_to_srgb(levels * 2**stops).clamp(max=1)[:, None, None, None].expand(4, 3, 96, 96)
    flat[3:] = 1.0  # white, one stop under, is 1/2
    noise = KeyedNoise(3, range(4), "sensor")
    light = srgb_to_linear(low_light(flat, settings(4, stops=stops, shot=shot, read=read), noise).double())
    for level, seen in zip([0.1, 0.25, 0.45, 0.5], light, strict=True):
        wanted = shot * level + read**2
        rounding = (2.4 * level ** (1 - 1 / 2.4) / 255) ** 2 / 12  # of the 8 bits, in linear light
        assert seen.var().item() == pytest.approx(wanted + rounding, rel=0.05)
        assert seen.mean().item() == pytest.approx(level, abs=4 * (wanted / seen.numel()) ** 0.5 + 1e-4)


def test_the_noise_is_white():
    flat = torch.full((1, 3, 64, 64), 0.7)
    seen = low_light(flat, settings(1, shot=0.002), KeyedNoise(0, ["x"], "sensor"))[0]
    seen = seen - seen.mean()
    power = seen.square().mean()
    for other in (seen.roll(1, 0), seen.roll(1, 1), seen.roll(1, 2)):  # another channel, row, column
        assert abs((seen * other).mean() / power) < 0.03


def test_the_sensor_does_not_see_the_exposure():
    """The same standard normals at every setting: a slider changes the light, not the grain."""
    flat = torch.full((1, 3, 16, 16), 0.7)
    found = []
    for read in (0.01, 0.02):
        seen = low_light(flat, settings(1, read=read), KeyedNoise(0, ["x"], "sensor"))
        found.append((srgb_to_linear(seen) - srgb_to_linear(flat)) / read)
    assert torch.corrcoef(torch.stack([f.flatten() for f in found]))[0, 1] > 0.98


def test_a_sample_does_not_know_its_batch():
    noise = lambda ids: KeyedNoise(0, ids, "sensor")  # noqa: E731
    drawn = lambda ids: draw_low_light(KeyedNoise(0, ids, "settings"))  # noqa: E731
    ids = [7, 1, 30, 4, 2]
    together = low_light(PICTURES, drawn(ids), noise(ids))
    assert len({round(x.mean().item(), 4) for x in together}) == 5
    for i, name in enumerate(ids):
        assert torch.equal(low_light(PICTURES[i : i + 1], drawn([name]), noise([name]))[0], together[i])
    order = [3, 0, 4, 2, 1]
    mixed = [ids[i] for i in order]
    assert torch.equal(low_light(PICTURES[order], drawn(mixed), noise(mixed)), together[order])


def test_what_is_drawn_fills_its_ranges():
    drawn = draw_low_light(KeyedNoise(0, range(20_000), "settings"))
    ranges = {
        "stops": (drawn.stops, lowlight.STOPS),
        "gamma": (drawn.gamma, lowlight.GAMMA),
        "red": (drawn.cast[:, 0].log(), np.log(lowlight.CAST)),
        "blue": (drawn.cast[:, 2].log(), np.log(lowlight.CAST)),
        "photons": (-drawn.shot.log(), np.log(lowlight.PHOTONS)),
        "read": (drawn.read.log(), np.log(lowlight.READ)),
    }
    places = {}
    for name, (value, (low, high)) in ranges.items():
        place = places[name] = (value - low) / (high - low)  # uniform in [0, 1)
        assert -1e-4 <= place.min() < 1e-3 and 0.999 < place.max() <= 1 + 1e-4, name
        assert place.mean().item() == pytest.approx(0.5, abs=0.01) and place.var().item() == pytest.approx(1 / 12, 0.03)
    together = torch.corrcoef(torch.stack(list(places.values()))) - torch.eye(6)
    assert together.abs().max() < 0.03, "two settings move together"
    assert (drawn.cast[:, 1] == 1).all()


@pytest.mark.parametrize("extreme", [dict(stops=20.0), dict(cast=(9.0, 9.0, 9.0)), dict(shot=5.0, read=2.0)])
def test_extremes_stay_in_range(extreme):
    found = low_light(PICTURES, settings(**extreme), KeyedNoise(0, range(5), "sensor"))
    assert found.isfinite().all() and found.min() >= 0 and found.max() <= 1 and found.dtype == torch.float32


def test_impossible_input_is_refused():
    with pytest.raises(ReproError, match="stops must be finite, >= 0"):
        settings(stops=-1.0)
    with pytest.raises(ReproError, match="read must be finite"):
        settings(read=float("nan"))
    with pytest.raises(ReproError, match=r"cast must be finite, >= 0, of shape \(2, 3\)"):
        LowLight(torch.ones(2), torch.ones(2), torch.ones(2), torch.ones(2), torch.ones(2))
    for wrong in (PICTURES[:4], PICTURES[:, :1], PICTURES[0]):
        with pytest.raises(ReproError, match=r"pictures of shape \(5, 3, H, W\) are needed"):
            low_light(wrong, settings(), None)
