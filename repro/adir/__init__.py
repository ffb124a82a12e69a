"""ADIR: reconstruction by a diffusion prior that a measurement guides and that retrieved neighbours adapt.

"ADIR: Adaptive Diffusion for Image Reconstruction" (Abu-Hussein, Tirer, Giryes).
"""
