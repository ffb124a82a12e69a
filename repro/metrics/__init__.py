"""Scores of images, each under a named protocol.

In reading order: `protocols` (names, and `score`), `pixel`, `lpips`, `noreference` (NIQE), `matlab`; scores of sets:
`features` (networks), `distribution` (FID, KID, IS), `sets`; `traps` (what a wrong protocol costs).
"""
