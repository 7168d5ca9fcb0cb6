"""A run's folder: its config, lock, log, checkpoints and result."""
