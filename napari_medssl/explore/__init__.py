"""Similarity maps, landmarks, PCA colours, the instant preview while somebody paints."""
