"""Files and folders that are complete or absent, and a lock that admits one writer to a folder at a time."""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vbon.errors import VbonError

WRITING, REMOVING = ".writing-", ".removing-"
"""Prefixes of what is not complete yet, and of what is no longer complete."""
LOCK_NAME = ".lock"


def replace_file(path: Path, content: bytes) -> None:
    """Write `content` to `path`; after a crash, either the old file is there or the new one, never a part.

    Raises:
        VbonError: the disk is full, or refuses.
    """
    temporary = path.with_name(WRITING + path.name)
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync(path.parent)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise _not_written(path, error) from None


@contextmanager
def replace_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder that takes the place of `path` once the block is left without an error.

    After a crash, either the old folder is there, or the new one, or none, but never a part of one.

    Raises:
        VbonError: the disk is full, or refuses.
    """
    temporary = path.with_name(WRITING + path.name)
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        yield temporary
        for file in temporary.rglob("*"):
            _sync(file)
        _sync(temporary)
        remove_folder(path)
        os.replace(temporary, path)
        _sync(path.parent)
    except OSError as error:
        raise _not_written(path, error) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def remove_folder(path: Path) -> None:
    """Remove a folder, if it is there, such that a crash leaves it complete or absent."""
    if path.exists():
        hidden = path.with_name(REMOVING + path.name)
        shutil.rmtree(hidden, ignore_errors=True)
        os.replace(path, hidden)
        shutil.rmtree(hidden)


def remove_leftovers(folder: Path) -> None:
    """Remove what a killed process had not finished writing or removing. Call it only under the folder's lock."""
    for prefix in (WRITING, REMOVING):
        for path in folder.glob(prefix + "*"):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


class FolderLock:
    """An exclusive lock on a folder, which the kernel releases when the process ends, however it ends.

    The package `filelock` is not used: many of its versions empty the lock file at every attempt, so that the owner,
    whose process id stands in the file, could not be named.
    """

    def __init__(self, folder: Path, content: str = "pool"):
        """Lock `folder`. Raises VbonError, which names the owner and the `content`, where another process has it."""
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
        """Give up the lock."""
        os.close(self._file)


def _sync(path: Path) -> None:
    """Flush a file, or a folder's entries, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _not_written(path: Path, error: OSError) -> VbonError:
    return VbonError(f"{path}: cannot be written ({error.strerror or error}); what was written before is intact")
