"""Dense features of a scan, and what they say is the same."""
