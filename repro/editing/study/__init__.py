"""Notebook 02: what is trained (`experiments`), from what data (`benchmark`; at paper scale `paper`), against what
(`pix2pix`), how it is measured (`measure`, `probes`) and shown (`lesson`, `figures`).
"""
