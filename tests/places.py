"""Where things are. Helpers stand in the folder of the tests that they serve first, and are imported by their names
from all of them: `HELPERS` goes on the path, in tests by conftest.py, in processes of their own by these."""

from __future__ import annotations

from pathlib import Path

TESTS = Path(__file__).resolve().parent
ROOT = TESTS.parent
SAMPLE = ROOT / "sample_data"
HELPERS = [str(TESTS), *(str(path) for path in sorted(TESTS.iterdir()) if path.is_dir() and path.name[0] not in "._")]
