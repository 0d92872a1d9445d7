"""Networks, checkpoints, and the anatomical embedding."""
