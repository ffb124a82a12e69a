"""Scores of pictures, each under a named protocol: see `repro.metrics.protocols`."""
