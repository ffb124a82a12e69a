"""Scores of images, each under a named protocol.

In reading order: `protocols` (names, and `score`), `pixel` (NIQE too), `lpips`; scores of sets:
`features` (FID, KID, IS, and networks); `traps` (what a wrong protocol costs).
"""
