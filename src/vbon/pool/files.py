"""Files that are either there in full or not there: write aside, flush to disk, rename. And one writer at a time."""

import fcntl
import os
from pathlib import Path

from vbon.errors import VbonError

TEMPORARY_PREFIX = ".writing-"
LOCK_NAME = ".lock"


def replace_file(path: Path, content: bytes) -> None:
    """Write `content` to `path` so that a crash leaves the old file or the new one, never a part.

    Raises VbonError where the disk is full or refuses.
    """
    temporary = path.with_name(TEMPORARY_PREFIX + path.name)
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync(path.parent)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        message = f"{path}: cannot be written ({error.strerror}); what was written before is intact"
        raise VbonError(message) from None


def remove_leftovers(folder: Path) -> None:
    """Remove what a killed writer had not finished. Only under the lock."""
    for path in folder.glob(TEMPORARY_PREFIX + "*"):
        path.unlink(missing_ok=True)


class FolderLock:
    """An exclusive lock on a folder, released by the kernel when the process ends, however it ends."""

    def __init__(self, folder: Path, content: str = "pool"):
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            self._file = os.open(folder / LOCK_NAME, flags, 0o644)
        except OSError as error:
            raise VbonError(f"{folder}: cannot be locked ({error.strerror})") from None
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            owner = os.read(self._file, 20).decode(errors="replace").strip()
            os.close(self._file)
            message = f"{folder}: another process ({owner or 'unknown'}) is writing this {content}; wait for it"
            raise VbonError(message) from None
        try:
            os.ftruncate(self._file, 0)
            os.pwrite(self._file, f"{os.getpid()}\n".encode(), 0)
        except OSError as error:
            os.close(self._file)
            raise VbonError(f"{folder}: cannot be locked ({error.strerror})") from None

    def release(self) -> None:
        os.close(self._file)


def sync(path: Path) -> None:
    """Flush a file, or a folder's entries, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
