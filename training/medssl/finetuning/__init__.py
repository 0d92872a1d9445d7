"""Learning from a few painted slices, and from what nobody painted."""
