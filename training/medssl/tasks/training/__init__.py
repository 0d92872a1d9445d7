"""The loop that all trainings share, what they define for it, and what they leave on the disk."""
