"""Pictures: the embedded pack, readers of users' images and of the real data sets, deterministic crops."""
