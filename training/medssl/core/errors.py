"""The exception for errors that a user can correct."""


class UserError(Exception):
    """An error that the user can correct.

    The command line prints the message and the viewer shows it, both without a traceback. Any other
    exception is a defect of the program.

    Args:
        message: One sentence that names the file (or object), what is wrong with it and what to do about it.
        code: Short identifier for programs and tests ("unreadable", "not-a-scan", "disk-full", ...).

    Example:
        >>> raise UserError(f"{path} does not exist; check the path.", code="missing")
    """

    def __init__(self, message: str, code: str = "bad-input") -> None:
        super().__init__(message)
        self.code = code
