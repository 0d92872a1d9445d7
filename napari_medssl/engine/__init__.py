"""The engine's child process, and what runs in it beside the session's job; one window writes a project."""
