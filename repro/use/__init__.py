"""The methods on a user's own images: `repro restore`, and networks trained on own pairs by one TOML file.

`methods` (what each method offers: a line a method), `restore` (the command), `pairs` (the file, checked), `training`
(train and evaluate by it). `rddm.toml` and `ucdir.toml` are commented examples to copy.
"""
