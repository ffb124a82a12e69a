"""Residual denoising diffusion (RDDM): two diffusions at once, from a clean image to its degraded version plus noise.

Symbols, as in the notebooks: x0 clean image, y degraded image (0 for generation), both in [-1, 1]; r = y - x0 the
residual, in [-2, 2]; eps ~ N(0, I); x_t = x0 + u_t r + s_t eps. (The papers write I_0, I_in, I_res, and alpha bar and
beta bar for u and s.) Equation numbers are those of the reproduction report of "Residual Denoising Diffusion Models".
Timesteps are counted from 0: t here is t + 1 in the report, and -1 the clean image.

In reading order: `process` (coefficients, the forward process, what is predicted), `model` (the network and its loss),
`samplers` (the reverse process), `pipeline` (the same for diffusers).
"""
