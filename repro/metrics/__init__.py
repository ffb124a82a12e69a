"""Scores of images, each under a named protocol.

In reading order: `protocols` (names, `score`, what a wrong protocol costs), `pixel` (NIQE too), `lpips`; scores of
sets: `features` (FID, KID, IS, and networks).
"""
