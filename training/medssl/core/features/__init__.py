"""Dense features of a scan: similarity maps, retrieval, landmarks, PCA colours, interactive classifier."""
