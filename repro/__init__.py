"""Diffusion papers reproduced in notebooks. Rooms are imported where they are used; this package imports none."""

__version__ = "0.1.0"
