"""How good a result is, by one protocol, in words and pictures."""
