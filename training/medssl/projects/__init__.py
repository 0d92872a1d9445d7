"""The project folder and what lies in it."""
