"""What every method is trained, measured and judged with; it knows no method.

In reading order: `rng` (a sample's own random numbers), `recipe`, `train` and `state` (the training loop, what it
goes on from), `checkpoint` (the network that ships), `registry` and `run` (an experiment by its name), `records`
(what was measured), `evaluation` and `check` (measuring, in full and again on the first k), `study` (what a method
writes, what a notebook reads), `exercises` (its questions to the reader), `stats`, `tables` and `grid` (tables from
records), `ledger` and `claims` (the papers' claims, judged), `provenance` (what made a file), `notebooks` and
`notebook_files`, `readme` and `front` (generated pages), `compare`, `doctor`, `environment`, `commands` (the command
line), `atomic` (files).
"""
