"""The rules that every file of the project keeps: sizes, docstrings, nothing put off."""

from __future__ import annotations

import ast
import re

from tests.tidy.sources import PROGRAMS, ROOT, functions, lines_of, python_files, short

FILE_LINES_MAX = 400
FUNCTION_LINES_MAX = 70
PUT_OFF = re.compile(r"\b(TOD[O]|FIXM[E]|XX[X])\b")  # The brackets keep it from finding itself.


def test_there_is_something_to_look_at() -> None:
    """The rules see the files of every folder that holds programs."""
    seen = {short(path).split("/")[0] for path in python_files()}
    assert {*PROGRAMS, "tests", "examples", ".ci"} <= seen


def test_files_are_short() -> None:
    """No file is longer than 400 lines."""
    lengths = {short(path): len(path.read_bytes().splitlines()) for path in python_files()}
    assert {name: n for name, n in lengths.items() if n > FILE_LINES_MAX} == {}


def test_functions_fit_on_a_screen() -> None:
    """No function is longer than 70 lines, its docstring set aside."""
    too_long = {
        f"{short(path)}:{function.name}": lines_of(function)
        for path in python_files()
        for function in functions(path)
        if lines_of(function) > FUNCTION_LINES_MAX
    }
    assert too_long == {}


def test_modules_say_what_they_are() -> None:
    """Every module opens with a docstring, or is a single line that holds a version."""
    silent = [
        short(path)
        for path in python_files()
        if not ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert silent == []


def test_tests_say_what_they_expect() -> None:
    """Every test has a docstring that is a sentence."""
    silent = [
        f"{short(path)}:{function.name}"
        for path in python_files(("tests",))
        if path.name.startswith("test_")
        for function in functions(path)
        if function.name.startswith("test_")
        and not (ast.get_docstring(function) or "").rstrip().endswith((".", "?", "!"))
    ]
    assert silent == []


def test_nothing_is_put_off() -> None:
    """No file says that something is still to be done."""
    put_off = [
        f"{short(path)}:{number}"
        for path in python_files()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if PUT_OFF.search(line)
    ]
    assert put_off == []


def test_packages_are_typed() -> None:
    """Each package carries py.typed, so that people's checkers read its types."""
    packages = ("proto/plaitwire", "sdk/plait", "agent/plait_agent", "collector/plait_collector")
    assert [name for name in packages if not (ROOT / name / "py.typed").exists()] == []
