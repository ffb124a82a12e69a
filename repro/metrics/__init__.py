"""Scores of pictures, each under a named protocol: see `repro.metrics.protocols`.

In reading order: `protocols` (all names), `pixel` (l1, PSNR, SSIM), `lpips`, `features` and `distribution` (FID, KID,
IS), `noreference` (NIQE), `matlab` and `traps` (what other protocols do to the numbers).
"""
