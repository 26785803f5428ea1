"""What the operator does with memory it needs no more."""

from __future__ import annotations

import subprocess
import sys

import pytest

# A large block that is freed teaches glibc to keep as much; then many small ones come and go.
BUSY_MINUTE = """
import sys
from pathlib import Path
from llmops.__main__ import give_back_memory

def resident():
    return int(Path("/proc/self/status").read_text().split("VmRSS:")[1].split()[0]) * 1024

if sys.argv[1] == "set":
    give_back_memory()
bytearray(24 * 1024 * 1024)
before = resident()
answers = [bytes(1000) + bytes([number % 256]) for number in range(20_000)]
del answers
print(resident() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("given_back", [True, False])
def test_freed_memory_is_given_back(given_back: bool) -> None:  # noqa: FBT001
    command = [sys.executable, "-c", BUSY_MINUTE, "set" if given_back else "unset"]
    kept = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert (kept < 5_000_000) is given_back
