"""Networks that several methods share, in reading order: `unet` (the small U-Net, its blocks, its padding, tiling of
large images), `classifier` (for FID and guidance), `ema` (the weight average that ships)."""
