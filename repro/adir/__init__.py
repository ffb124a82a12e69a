"""ADIR: reconstruction by a diffusion prior that a measurement guides and that retrieved neighbours adapt.

"ADIR: Adaptive Diffusion for Image Reconstruction". In reading order: `guidance` (y = A x + e; Algorithm 1; DDRM, DPS;
where the answer is known), `adapt` (the prior, low-rank factors, eqs. 18 and 20), `pipeline` (neighbours
by eq. 19, and all of it for one image); `study.paper` holds the networks of the paper.
"""
