"""On a CPU: memory that a training step frees is kept for the next one.

Each step asks for the same tensors again, of several megabytes each. glibc gives such memory back to the system when
it is freed, and the system then clears it anew, page by page, for the next step: a fifth of the time of three LeNet5
side by side. GPUs have an allocator of torch's own, which keeps memory anyway.
"""

import ctypes
import platform
from collections.abc import Iterator
from contextlib import contextmanager

# malloc.h
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -3, -4
_NEVER = 2**31 - 1  # bytes free at the heap's end until they are given back
# What glibc comes to by itself where large blocks are freed: its own limit, and twice that.
_LARGEST_THRESHOLD = 32 << 20
_DEFAULT_MAPS = 65_536


@contextmanager
def freed_memory_is_kept() -> Iterator[None]:
    """While this lasts the process keeps what it frees, and gives it back then; without glibc this does nothing."""
    libc = ctypes.CDLL(None) if platform.libc_ver()[0] == "glibc" else None
    if libc is None:
        yield
        return
    libc.mallopt(_M_TRIM_THRESHOLD, _NEVER)
    libc.mallopt(_M_MMAP_MAX, 0)  # a block mapped by itself is given back however large the threshold
    try:
        yield
    finally:
        libc.mallopt(_M_MMAP_MAX, _DEFAULT_MAPS)
        libc.mallopt(_M_MMAP_THRESHOLD, _LARGEST_THRESHOLD)
        libc.mallopt(_M_TRIM_THRESHOLD, 2 * _LARGEST_THRESHOLD)
        libc.malloc_trim(0)
