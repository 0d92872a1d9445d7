"""Which slice is worth painting next."""
