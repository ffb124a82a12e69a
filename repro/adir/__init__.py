"""ADIR: reconstruction by a diffusion prior that a measurement guides and that retrieved neighbours adapt.

"ADIR: Adaptive Diffusion for Image Reconstruction". In reading order: `operators` (y = A x + e), `prior` (the network),
`guidance` (Algorithm 1; DDRM, DPS), `lora` and `adapt` (eqs. 18 and 20), `retrieval` (eq. 19), `pipeline`
(all of it for one image), `oracle` (where the answer is known); `study.paper` holds the networks of the paper.
"""
