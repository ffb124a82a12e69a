"""What notebook 05 measures and shows."""
