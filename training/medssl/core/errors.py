"""The one exception that a user ever reads."""


class UserError(Exception):
    """Something the user can put right.

    The message is one sentence that names the file (or thing), what is wrong with it and what to do
    about it. The command line prints it, the viewer shows it, neither shows a traceback. Any other
    exception is a defect of ours.

    `code` is a short word for programs and tests ("unreadable", "not-a-scan", "disk-full", ...).
    """

    def __init__(self, message: str, code: str = "bad-input") -> None:
        super().__init__(message)
        self.code = code
