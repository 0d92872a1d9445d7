"""Proposals of an nnInteractive server that the user runs; needs the extra `interactive`."""
