"""What our reader and writer have to say when napari opens or saves a file.

napari shows it for seconds; a dock that is open keeps it (widgets/feedback.py). napari calls reader and
writer without telling which of its windows asks, so every dock listens here.
"""

from __future__ import annotations

from psygnal import Signal


class FileNotices:
    """Tells sentences about files."""

    attempted = Signal()
    """A file is about to be read or written: what was told about the ones before is over."""
    told = Signal(str, str)
    """("warning" | "error", one sentence)."""

    def tell(self, severity: str, text: str) -> None:
        """Show a sentence.

        Args:
            severity: "warning" or "error".
            text: One sentence.
        """
        from napari.utils import notifications

        show = {"warning": notifications.show_warning, "error": notifications.show_error}
        show[severity](text)
        self.told.emit(severity, text)


file_notices = FileNotices()
