"""What people paint: strokes, masks, guesses between slices; and who paints in a simulation."""
