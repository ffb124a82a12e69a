"""The editing-vector latent diffusion model: five effects, the vector that asks for them, the model that makes them."""
