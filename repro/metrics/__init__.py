"""Scores of images, each under a named protocol.

In reading order: `protocols` (names, `score`, what a wrong protocol costs), `pixel` (l1, PSNR, SSIM, LPIPS, NIQE);
scores of sets: `features` (FID, KID, IS, and networks).
"""
