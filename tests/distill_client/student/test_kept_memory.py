"""Freed memory is kept while a student trains, and given back when it is done."""

import platform
import subprocess
import sys

import pytest

from distill_client.student.kept_memory import freed_memory_is_kept

# In a process of its own: what happened to the heap before decides what glibc does by itself.
STEPS = """
import resource
import torch
from distill_client.student.kept_memory import freed_memory_is_kept

page, mebibytes = resource.getpagesize(), 64
step = 2 * (mebibytes << 20) // page

def cleared(steps):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(steps):
        torch.ones(mebibytes << 18).add(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident():
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * page >> 20

assert cleared(5) > 4 * step, "without it each step's memory is cleared anew"
before = resident()
with freed_memory_is_kept():
    cleared(10)  # until small blocks between them have found their places
    assert cleared(5) < step / 4
    assert resident() > before + mebibytes
assert resident() < before + mebibytes / 2
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="this machine's C library is not glibc")
def test_what_a_step_frees_is_there_for_the_next_and_given_back_at_the_end() -> None:
    done = subprocess.run([sys.executable, "-c", STEPS], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_c_library_without_these_settings_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    monkeypatch.setattr("ctypes.CDLL", lambda *_: pytest.fail("was asked"))
    with freed_memory_is_kept():
        pass
