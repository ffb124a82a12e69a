"""Networks that several methods share: `unet` (the small U-Net, its blocks, its padding, tiling of large images) and
`classifier` (for FID and guidance)."""
