"""Notebook 03. In reading order: `experiments` (what is trained, listed in `experiments.toml`), `measure` (the cells of
`grid.toml`, for the claims of `claims.toml`), `lesson` (what the notebook does live), `figures` (its drawings)."""

import repro.ddpm.study  # noqa: F401 (networks of notebook 01 are measured here, too)
from repro.engine.checkpoint import register

register(__name__, notebook="03_rddm_sampling")
