"""Notebook 04. In reading order: `experiments` (what is trained, listed in `experiments.toml`), `measure` (the cells of
`grid.toml`, for the claims of `claims.toml`), `figures` (what the notebook shows)."""

from repro.engine.checkpoint import register

register(__name__, notebook="04_ucdir")
