"""What a run asks of the machine, where no whole run shows it."""

import platform
import sys

import pytest
from running import ROOT, command

# malloc itself: what torch and Python allocate between two arrays lays the heap out differently each time.
FAULTS = """
import ctypes, resource
from zorse.training.devices import tune_glibc_malloc

tune_glibc_malloc()
libc, size = ctypes.CDLL(None), ctypes.c_size_t(100_000_000)
libc.malloc.restype = ctypes.c_void_p
for _ in range(3):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    array = ctypes.c_void_p(libc.malloc(size))
    ctypes.memset(array, 1, size.value)
    libc.free(array)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="no glibc")
def test_large_arrays_get_the_memory_of_earlier_ones():
    done = command([sys.executable, "-c", FAULTS], cwd=ROOT)
    assert int(done.stdout) < 100, done.stderr  # pages; 24,000 of 4 kB if it were not kept
