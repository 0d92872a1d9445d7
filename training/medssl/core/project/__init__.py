"""The project folder: manifest, annotations, stroke log, runs, probability maps."""
