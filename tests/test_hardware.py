"""What a run asks of the machine, where no whole run shows it."""

import platform
import sys

import pytest
from conftest import ROOT, command

FAULTS = """
import resource, torch
from pipeline.hardware import keep_memory

keep_memory()
for _ in range(5):  # of 100 MB; the first few may be laid out anew, as what is small comes between
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.zeros(25_000_000)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="no glibc")
def test_large_arrays_get_the_memory_of_earlier_ones():
    done = command([sys.executable, "-c", FAULTS], cwd=ROOT)
    assert int(done.stdout) < 100, done.stderr  # pages; 24,000 of 4 kB if it were not kept
