"""Notebook 04: UCDIR, "A Unified Conditional Framework for Diffusion-based Image Restoration" (Zhang et al.).

In reading order: `noise` (levels and samplers), `kernels` (conditions become convolution kernels), `network` (initial
predictor and diffusion U-Net), `model` (both together, one checkpoint), `loss` (Eq. 1), `patches` (large images),
`pipeline` (a photograph in, a photograph out). None of them needs `study/`, where experiments, tables, figures and the
notebook's widgets are.
"""
