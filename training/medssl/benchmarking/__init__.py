"""Protocols, experiments and reports that evaluate the methods. Only the command line imports it."""
