"""Golden files: a test's output, compared with reviewed earlier output."""

import difflib
import os
from pathlib import Path


def check_golden(path: Path, text: str) -> None:
    """Fail, showing the difference, unless `path` holds `text`; with RENEW_GOLDEN=1 in the environment, write it."""
    if os.environ.get("RENEW_GOLDEN") == "1" and not os.environ.get("CI"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return
    known = path.read_text(encoding="utf-8") if path.exists() else ""
    lines = difflib.unified_diff(
        known.splitlines(), text.splitlines(), f"{path.name} (known)", "drawn now", lineterm=""
    )
    assert known == text, "\n".join([*lines, "If the difference is meant, run the test with RENEW_GOLDEN=1."])
