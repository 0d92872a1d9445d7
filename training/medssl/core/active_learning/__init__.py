"""Selection of slices for annotation: candidate slices and coverage of the scans by annotated ones."""
