"""Fine-tuning from a few annotated slices, with pseudo-labels for the rest."""
