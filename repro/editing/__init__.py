"""The editing-vector latent diffusion model: five effects, the vector that requests them, the model that makes them.

In reading order:

    vector       the editing vector C: a request in nine numbers
    autoencoder  images <-> latents, and its training
    model        f_theta and the conditional U-Net
    tasks        what the networks learn
    sampling     `Editor`: edits as plain tensors, by DDIM
    pipeline     `EditingPipeline`: the same as a diffusers pipeline, for use
    large        large images by tiles, and last corrections
    effects/     the effects' formulas
    commands     `repro edit`
    study/       notebook 02
"""
