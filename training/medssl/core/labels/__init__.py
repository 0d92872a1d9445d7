"""Operations on label volumes: interpolation between slices, import, postprocessing, metrics."""
