"""Denoising diffusion in plain tensors: schedules, forward process, losses, samplers, guidance, and exact oracles.

Symbols: x0 clean sample in [-1, 1], x_t noisy sample, eps ~ N(0, I), a = sqrt(alpha_bar_t), s = sqrt(1 - alpha_bar_t),
so x_t = a x0 + s eps (Ho et al. 2020, Eq. 4). Timesteps are counted from 0: t here is t + 1 in the papers.

In reading order: `process` (noise schedules, forward process, posterior, predictions, losses), `samplers` (the way
back), `oracles` (where the exact answer is known).
"""
