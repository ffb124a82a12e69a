"""Words, protocols and cells that the tables of notebook 03 share."""

from __future__ import annotations

from repro.rddm.config import SMALL

TASKS = {"lowlight": "low light", "raindrop": "raindrops"}
LABELS = {"smres": "SM-Res", "smn": "SM-N", "smresn": "SM-Res-N"}
INPUT = "degraded input"
REGRESSION, SR3 = "regression, same network", "conditional DDPM from pure noise"
NOT_YET = "no record of this profile: `repro evaluate rddm --full` makes it"
PSNR, SSIM, LPIPS = "psnr/rgb", "ssim/rgb-wang", "lpips/alex-v0.1"
PSNR_Y, SSIM_Y = "psnr/y", "ssim/y-wang"
FID_PROTOCOL = "FID on features of this repository's classifier of Fashion-MNIST, against the test split"


def steps_of(task: str) -> int:
    """Sampling steps of the main table."""
    return SMALL.tasks[task].steps
