"""A rank needs the standard library alone: `import plait` brings nothing else into a process."""

from __future__ import annotations

import json
import subprocess
import sys

from tests.tidy.sources import ROOT

PROBE = """
import json, sys
sys.path[:0] = sys.argv[1:]
before_threads = __import__("threading").active_count()
import plait
assert plait.__file__, "plait is an empty folder"
print(json.dumps({
    "modules": sorted({name.partition(".")[0] for name in sys.modules}),
    "wire": sorted(name for name in sys.modules if name.startswith("plaitwire.")),
    "threads": __import__("threading").active_count() - before_threads,
}))
"""


def test_plait_imports_the_standard_library_alone() -> None:
    """In an environment without any package, plait imports, and what it brings is Python's own."""
    # -I and -S: no site-packages, no PYTHONPATH, no folder of the caller's.
    command = [sys.executable, "-I", "-S", "-c", PROBE, str(ROOT / "proto"), str(ROOT / "sdk")]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    found = json.loads(answer.stdout)
    own = {"plait", "plaitwire", "__main__"}
    assert set(found["modules"]) - sys.stdlib_module_names - own == set()
    assert [name for name in found["wire"] if name.startswith("plaitwire.v1")] == []
    assert found["threads"] == 0
