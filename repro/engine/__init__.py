"""What every method is trained, measured and judged with; it knows no method.

In reading order: `rng` (a sample's own random numbers), `train` (a recipe, a task, the loop, its resumable state),
`checkpoint` (an experiment by its name, trained; the network that ships), `records` (what was measured),
`evaluation` (measuring, in full and again on the first k), `study` (what a method writes, what a notebook reads),
`exercises` (its questions to the reader), `stats`, `tables` and `grid` (tables from records), `claims` (the papers'
claims, judged), `provenance` (what made a file), `notebooks`, `front` (generated pages),
`commands` (the command line), `atomic` (files).
"""
