"""Strokes reach the disk and come back; edits that undo takes back; interpolation between slices."""
