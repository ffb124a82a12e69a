"""Residual denoising diffusion (RDDM): two diffusions at once, from a clean image to its degraded version plus noise.

Symbols: I_0 clean image, I_in degraded image (0 for generation), both in [-1, 1]; I_res = I_in - I_0 the residual,
in [-2, 2]; eps ~ N(0, I); I_t = I_0 + abar_t I_res + bbar_t eps. Equation numbers are those of the reproduction report
of "Residual Denoising Diffusion Models". Timesteps are counted from 0: t here is t + 1 in the report, and -1 the clean
image.

In reading order: `schedules` and `process` (the forward process, what is predicted), `model` and `tasks` (the network,
what it learns), `samplers` and `sampling` (the reverse process, step by step and in one call), `scheduler` and
`pipeline` (the same for diffusers), `transform` (RDDM and DDIM as one sampler).
"""
