"""Notebook 05. In reading order: `experiments` (the prior's trainings), `measure` (the cells of `grid.toml` by
`settings.toml`, for the claims of `claims.toml`), `figures` (what it shows), `paper` (networks of the paper)."""

from repro.engine.checkpoint import register

register(__name__, notebook="05_adir")
