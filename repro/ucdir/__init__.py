"""Notebook 04: UCDIR, "A Unified Conditional Framework for Diffusion-based Image Restoration" (Zhang et al.).

In reading order: `noise` (levels and samplers), `network` (predictor and diffusion U-Net; conditions become convolution
kernels), `model` (both networks, their loss of Eq. 1, the training task), `pipeline` (a photograph in, a photograph
out, large ones in tiles). None of them needs `study/`: experiments, measurements, and what the notebook shows.
"""
