"""Self-supervised pre-training on a project's scans, with monitors for collapse and linear probes."""
