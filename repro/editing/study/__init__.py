"""Notebook 02: what is trained (`experiments`), from what data (`benchmark`, `bank`; at paper scale `paper`), against
what (`pix2pix`), how it is measured (`measure`, `scores`, `strength`) and shown (`lesson`, `figures`, `curves`,
`probes`, `explore`, `exercises`, `overview`).
"""
