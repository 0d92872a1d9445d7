"""Similarity maps, landmarks, PCA colours and the instant preview."""
