"""Memory that images need again and again is not fetched from the system each time."""

import platform
import subprocess
import sys

import pytest

FAULTS_OF_IMAGES = """
import resource, sys
import numpy as np
from infra.allocator import keep_freed_memory

if sys.argv[1] == "keep":
    assert keep_freed_memory()

def image():
    rows = [np.ones((256, 256, 3), np.float32) for _ in range(8)]
    del rows

for _ in range(5):
    image()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(50):
    image()
print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) // 50)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have no such setting")
def test_kept_memory_is_used_again():
    def faults(how):
        command = [sys.executable, "-c", FAULTS_OF_IMAGES, how]
        return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    assert faults("keep") < 10 < 100 < faults("as it comes")
