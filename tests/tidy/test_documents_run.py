"""The code in the README, the quickstart and the API page runs, in the order in which it stands."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from examples.demo import collector_and_agent

from tests.tidy.sources import ROOT

DEFAULT_COLLECTOR = "127.0.0.1:7431"
FENCED = re.compile(r"^```(python|sh)\n(.*?)^```", flags=re.MULTILINE | re.DOTALL)
STARTS_SOMETHING = ("make", "plait collector", "plait agent")
"""Commands that the fixture stands for, or that would begin all over."""


@pytest.fixture
def programs(tmp_path: Path) -> Iterator[dict[str, str]]:
    """A collector and an agent; the environment in which they are found."""
    with collector_and_agent(tmp_path, tmp_path / "data") as environment:
        yield environment


@pytest.mark.system
@pytest.mark.parametrize("page", ["README.md", "docs/quickstart.md", "docs/api.md"])
def test_the_code_of_a_page_runs(page: str, programs: dict[str, str], tmp_path: Path) -> None:
    """Each block of Python and each command that reads, one after another, ends well."""
    collector = programs["PLAIT_COLLECTOR"]
    blocks = FENCED.findall((ROOT / page).read_text(encoding="utf-8"))
    assert "python" in [language for language, _ in blocks]
    for language, text in blocks:
        text = text.replace(DEFAULT_COLLECTOR, collector)
        for command in [[sys.executable, "-c", text]] if language == "python" else commands(text):
            answer = subprocess.run(
                command,
                cwd=tmp_path,
                env=programs,
                capture_output=True,
                text=True,
                check=False,
                timeout=90,
            )
            assert answer.returncode == 0, f"{text}\n{answer.stdout}\n{answer.stderr}"


def commands(text: str) -> list[list[str]]:
    """The commands of a block of shell that read, as lists of words."""
    lines = [line for line in text.splitlines() if not line.startswith(STARTS_SOMETHING)]
    programs = Path(sys.executable).parent
    found = [shlex.split(line, comments=True) for line in lines]
    assert all(words[0] == "plait" for words in found)
    return [[str(programs / words[0]), *words[1:]] for words in found]
