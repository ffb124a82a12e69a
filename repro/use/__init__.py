"""The methods on a user's own images: `repro restore`, and networks trained on own pairs by one TOML file.

`restore` (what each method offers, a line a method, and the command), `training` (the file, checked; train and evaluate
by it). `rddm.toml` and `ucdir.toml` are commented examples to copy.
"""
