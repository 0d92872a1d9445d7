"""The state of the session: project, scan, annotation, jobs, runs. No Qt."""
