"""Files that are either old or new, never half-written."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

__all__ = ["remove_leftovers", "replace_file"]

_SUFFIX = ".tmp"


def replace_file(path: Path, data: bytes) -> None:
    """Write a file beside its place, then move it there in one step.

    Args:
        path: Where the file goes; its folder is made if missing.
        data: All of the file.

    Raises:
        OSError: The disk refuses; with the path.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}{_SUFFIX}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with beside.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except OSError as e:
        # A full disk does not say which file it is about, and the temporary one's name says nothing.
        raise OSError(e.errno, e.strerror, str(path)) from e
    finally:
        with suppress(OSError):
            beside.unlink(missing_ok=True)


def remove_leftovers(folder: Path) -> None:
    """Remove what processes that were killed left half-written in a folder."""
    for path in folder.glob(f".*{_SUFFIX}"):
        process = path.name.removesuffix(_SUFFIX).rpartition(".")[2]
        if process.isdecimal() and not _lives(int(process)):
            with suppress(OSError):
                path.unlink()


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        # Somebody else's.
        return True
    return True
