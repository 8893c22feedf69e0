"""A rank needs the standard library and nothing else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import plait
import plaitwire
from plaitwire.folders import Folders

PROGRAM = """
import os, sys
sys.path[:0] = sys.argv[1:3]
import plait
run = plait.init("tests", id="r", config={"a": 1})
run.log({"a": 1.0, "b": "text", "c": {"d": 2}})
run.summary["a"] = 1
run.finish()
own = {"plait", "plaitwire", "__main__"}
print(sorted({name.split(".")[0] for name in sys.modules} - own - sys.stdlib_module_names))
print("threading" in sys.modules, "asyncio" in sys.modules, "grpc" in sys.modules)
"""


def test_nothing_but_the_standard_library(folders: Folders) -> None:
    """A run from init to finish, in an empty environment, pulls no third-party module."""
    assert plait.__file__
    roots = [str(Path(module.__path__[0]).parent) for module in (plait, plaitwire)]
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", PROGRAM, *roots],
        env={"PLAIT_HOT_DIR": str(folders.hot), "PLAIT_DIR": str(folders.cold)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["[]", "True False False"]


def test_public_names() -> None:
    """The package's public names are these, and each is there."""
    assert plait.__all__ == ["Api", "Run", "__version__", "init"]
    for name in plait.__all__:
        assert getattr(plait, name)


def test_elsewhere_init_says_so() -> None:
    """Where logs cannot be written the package imports, and init says that it is for Linux."""
    program = (
        "import sys\nsys.platform = 'win32'\nsys.modules['fcntl'] = None\nimport plait\n"
        "try: plait.init()\nexcept RuntimeError as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert "Linux only" in done.stdout
