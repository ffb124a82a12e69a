"""What every method is trained, measured and judged with; it knows no method.

In reading order: `rng` (a sample's own random numbers), `train` (recipe, task, the loop and its resumable state),
`checkpoint` (experiments by name, their training, the networks that ship), `records` (what was measured), `evaluation`
(measuring, in full and again on the first k), `stats`, `tables` and `grid` (tables from records), `claims` (the papers'
claims, judged), `study` (what a notebook works with), `provenance` (what made a file), `notebooks`, `front` (generated
pages), `commands` (the command line).
"""
