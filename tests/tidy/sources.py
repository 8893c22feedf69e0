"""The project's own Python files: what is generated or installed is not among them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("proto", "sdk", "agent", "collector", "tests", "examples", "benchmarks", ".ci")
PROGRAMS = ("proto", "sdk", "agent", "collector")


def python_files(folders: tuple[str, ...] = FOLDERS) -> list[Path]:
    """Every file that a person wrote, sorted."""
    found = (path for folder in folders for path in (ROOT / folder).rglob("*.py"))
    return sorted(path for path in found if not is_foreign(path))


def is_foreign(path: Path) -> bool:
    """Whether a file is generated, or belongs to an environment or a web toolchain."""
    inside = path.relative_to(ROOT).parts
    return "_pb2" in path.name or any(part in ("node_modules", ".venv") for part in inside)


def short(path: Path) -> str:
    """A path as people write it: from the project's root."""
    return str(path.relative_to(ROOT))


Function = ast.FunctionDef | ast.AsyncFunctionDef


def functions(path: Path) -> Iterator[Function]:
    """Every function and method of a file, nested ones too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, Function):
            yield node


def lines_of(function: Function) -> int:
    """How long a function is, its decorators counted and its docstring not."""
    first = min([function.lineno, *(each.lineno for each in function.decorator_list)])
    assert function.end_lineno is not None
    length = function.end_lineno - first + 1
    if ast.get_docstring(function, clean=False) is not None:
        docstring = function.body[0]
        assert docstring.end_lineno is not None
        length -= docstring.end_lineno - docstring.lineno + 1
    return length
