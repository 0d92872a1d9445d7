"""The engine's child process, background jobs, and the lock that lets one window write a project."""
