"""The pictures of the documentation are made with the hand and the scans of the tests."""

import sys
from pathlib import Path

for tests in ("plugin", "engine"):
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / tests))
