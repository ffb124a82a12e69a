"""The methods on a user's own images: `edit`, `restore` (what each method offers, a line each), `training` (networks
trained and evaluated on own pairs by one TOML file; `rddm.toml` and `ucdir.toml` are examples to copy)."""
