"""Notebook 04: UCDIR, "A Unified Conditional Framework for Diffusion-based Image Restoration" (Zhang et al.).

In reading order: `network` (predictor and diffusion U-Net; conditions become convolution kernels), `model` (noise
levels, both networks, their loss of Eq. 1, the training task), `pipeline` (samplers; a photograph in, a photograph out,
large ones in tiles). None of them needs `study/`: experiments, measurements, and what the notebook shows.
"""
