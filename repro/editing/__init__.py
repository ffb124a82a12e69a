"""The editing-vector latent diffusion model: five effects, the vector that requests them, the model that makes them.

In reading order: `vector` (a request in nine numbers), `effects` (what the targets are made by), `autoencoder`, `model`
(f_theta, the conditional U-Net and its training), `sampling` (`Editor`: edits of plain tensors), `pipeline`
(`EditingPipeline`: the same for use, at any size), `study/` (notebook 02). `repro edit` is `repro/use/edit.py`.
"""
