"""Autosave and crash recovery of strokes, undoable edits, interpolation between slices, volumes."""
