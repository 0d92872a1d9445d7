"""An image that is being written: it gets the name of its scan when project.json gets what it says of it.

So writing takes no lock, and a kill at any moment leaves no scan with the image of another one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from medssl.core.errors import UserError
from medssl.core.files import cannot_write
from medssl.core.project.names import free_id
from medssl.core.temporary_files import temporary_file


class NewImage:
    """A file in the folder of images that belongs to no scan yet; to be written to `path`."""

    def __init__(self, folder: Path) -> None:
        self._folder, self.path = folder, temporary_file(folder / "scan.npy")
        self.named: Path | None = None

    def give_name(self, source: Path, taken: Iterable[str], name: str) -> str:
        """Make the file the image of a new scan. Needs the change lock.

        Args:
            source: File or folder of the scan.
            taken: Ids of all scans.
            name: Name under which the scan was found, see `free_id`.

        Returns:
            An id that no scan and no image has: a process that was killed may have left one without a scan.

        Raises:
            UserError: "not-writable".
        """
        scan_id = free_id(source, (*taken, *(path.stem for path in self._folder.glob("*.npy"))), name)
        self.named = self.replace(self._folder / f"{scan_id}.npy")
        return scan_id

    def replace(self, path: Path) -> Path:
        """Put the file in the place of the image of a scan. Needs the change lock.

        Args:
            path: The image of the scan.

        Returns:
            `path`.

        Raises:
            UserError: "not-writable".
        """
        try:
            return self.path.replace(path)
        except OSError as error:
            raise cannot_write(path, error) from error


@contextmanager
def new_image(folder: Path, in_use: Callable[[str], bool]) -> Iterator[NewImage]:
    """A new image, which does not stay if it gets no name, or if a UserError keeps it from being used.

    Args:
        folder: The folder of images.
        in_use: Whether a scan of an id is in the project, according to the disk. The last step of writing
            project.json may fail although the file is there.
    """
    image = NewImage(folder)
    try:
        yield image
    except UserError:
        with suppress(UserError, OSError):
            if image.named is not None and not in_use(image.named.stem):
                image.named.unlink()
        raise
    finally:
        with suppress(OSError):
            image.path.unlink(missing_ok=True)
