"""Memory between operations."""

import ctypes
import mmap
import sys
from pathlib import Path

# glibc's mallopt parameters.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
# Bytes of a block that is its own mapping, up to which glibc raises its threshold by itself.
_LARGE = 1 << 25
_SHARED = 1 << 22  # likewise where many threads share


def _giving_back(large: int) -> tuple[tuple[int, int], ...]:
    """Settings by which blocks from so many bytes on go back to the system when they are freed."""
    return (_MMAP_THRESHOLD, large), (_TRIM_THRESHOLD, 2 * large)


_usual = _giving_back(_LARGE)


def keep_freed_memory(keep: bool = True) -> bool:
    """Tell glibc to keep freed memory for the next tensor, or (False) to do as before.

    By default it gives large blocks back to the system at once, which clears their pages anew for every
    operation: on a CPU a gradient step through the generator at 1024 px then takes three times as long.
    The price is that the process keeps its peak.

    Returns:
        Whether this C library listens (glibc on Linux); elsewhere nothing happens.
    """
    return _tell(*(((_MMAP_THRESHOLD, 1 << 30), (_TRIM_THRESHOLD, 2**31 - 1)) if keep else _usual))


def share_freed_memory() -> bool:
    """Tell glibc that threads have two pools of memory between them, for the rest of this process.

    By default there are up to eight a core, and what one thread has freed is not there for the others:
    a page that many threads serve grows for as long as it is used. Large blocks, as of residuals and
    pictures, go back at once instead of leaving holes between small ones. To be called before threads start.

    Returns:
        As `keep_freed_memory`.
    """
    global _usual
    _usual = _giving_back(_SHARED)
    return _tell((_ARENA_MAX, 2), *_usual)


def return_freed_memory() -> bool:
    """Give the system back what this process has freed by now, whatever it was told to keep.

    Returns:
        As `keep_freed_memory`.
    """
    library = _glibc()
    if library:
        library.malloc_trim(0)
    return library is not None


def forget_mapped(folder: Path) -> bool:
    """Give the system back what this process has read of a folder's files by mapping them, and not changed.

    What is needed after all is read again; most often it is still in the system's own memory.

    Returns:
        As `keep_freed_memory`.
    """
    library, inside = _glibc(), f" {folder.resolve()}/"
    if library is None:
        return False
    for line in Path("/proc/self/maps").read_text().splitlines():
        if inside in line:
            places, rights = line.split()[:2]
            if "w" not in rights:
                start, end = (int(place, 16) for place in places.split("-"))
                library.madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), mmap.MADV_DONTNEED)
    return True


def _tell(*settings: tuple[int, int]) -> bool:
    library = _glibc()
    return library is not None and all([library.mallopt(*setting) for setting in settings])


def _glibc() -> ctypes.CDLL | None:
    """This process's C library, if it is glibc."""
    library = ctypes.CDLL(None) if sys.platform.startswith("linux") else None
    return library if hasattr(library, "malloc_trim") else None
