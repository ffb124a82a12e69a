"""Notebook 02. In reading order: `experiments` (what is trained, by `experiments.toml`), `benchmark` (its data; at
paper scale `paper`), `pix2pix` (what it is compared with), `measure` (the cells of `grid.toml`, for `claims.toml`),
`probes` (small measurements), `lesson` (what the notebook works with), `figures` (what it shows)."""

from repro.engine.checkpoint import register

register(__name__, notebook="02_editing_vector_ldm")
