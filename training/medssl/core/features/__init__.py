"""Uses of dense features: similarity maps, retrieval, landmarks, PCA colours, interactive classifier."""
