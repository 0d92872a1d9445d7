"""Candidate slices for annotation and how well the annotated ones cover the scans."""
