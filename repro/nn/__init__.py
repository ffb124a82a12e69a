"""Networks that several methods share, in reading order: `unet` (the small U-Net and its blocks), `classifier` (for FID
and guidance), `ema` (the weight average that ships), `padding` (sides that a network does not divide)."""
