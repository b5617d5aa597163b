"""Files are written whole or not at all."""

from __future__ import annotations

import importlib.util
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from longstride.errors import InputError

__all__ = ["check_writable", "locked", "write_atomically"]


def check_writable(path: Path, *, new_folders: bool = False) -> None:
    """Make sure, before long work, that a file can be written at ``path``; nothing is left behind.

    Args:
        path: Where the file will be.
        new_folders: Whether missing folders will be made.

    Raises:
        InputError: the path is a folder, or its folder is missing or cannot be written.
    """
    folder = path.parent
    try:
        if path.is_dir():
            raise InputError(f"cannot write {path}: it is a folder")
        while new_folders and not folder.exists() and folder != folder.parent:
            folder = folder.parent
        with tempfile.NamedTemporaryFile(dir=folder, prefix=f".{path.name}."):
            pass
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from None


def write_atomically(path: Path, content: bytes) -> None:
    """Write next to ``path``, then rename.

    Raises:
        InputError: the folder is missing or cannot be written.
    """
    temporary = None
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            temporary = file.name
            file.write(content)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
        temporary = None
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from None
    finally:  # also when interrupted
        if temporary is not None:
            os.unlink(temporary)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes that ask for the same lock waiting; a process that ends gives it back.

    The folder itself is locked, so that no file is left behind. Where the system has no such locks (Windows), nothing
    is locked.

    Raises:
        InputError: the folder is missing or cannot be read.
    """
    if importlib.util.find_spec("fcntl") is None:
        yield
        return
    import fcntl

    try:
        held = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise InputError(f"cannot use folder {folder}: {error.strerror or error}") from None
    try:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield
    finally:
        os.close(held)
