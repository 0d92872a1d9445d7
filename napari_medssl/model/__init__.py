"""The state of the session: project, scan, jobs, runs. No Qt."""
