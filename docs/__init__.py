"""Pictures and films of the documentation are made with the hand, the scans and the sshd of the tests."""

import sys
from pathlib import Path

for folder in ("tests/plugin", "tests/engine", "benchmarks"):
    sys.path.insert(0, str(Path(__file__).parents[1] / folder))
