"""The editing-vector latent diffusion model: five effects, the vector that requests them, the model that makes them.

In reading order: `vector` (a request in nine numbers), `effects` and `grain` (what the targets are made by),
`autoencoder`, `model` (f_theta, the conditional U-Net and its training), `sampling` (`Editor`: edits of plain tensors),
`pipeline` (`EditingPipeline`: the same for use, at any size), `commands` (`repro edit`), `study/` (notebook 02).
"""
