"""Networks that several methods share.

In reading order: `unet` (the small U-Net and its blocks), `classifier` (small, for FID and guidance), `ema` (the
weight average that is sampled and shipped), `padding` (images whose sides a network does not divide).
"""
