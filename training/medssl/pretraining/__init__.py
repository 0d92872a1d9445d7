"""Learning without labels, and whether it was worth it."""
