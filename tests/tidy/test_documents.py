"""The documents say what the programs do: options, environment, calls, limits, dependencies."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib

import pytest

from plait.identity import GPU_VARIABLES, LAUNCHER_VARIABLES
from plaitwire import limits
from plaitwire.v1 import ingest_pb2, query_pb2
from tests.tidy.sources import PROGRAMS, ROOT, python_files

OPERATING = (ROOT / "docs/operating.md").read_text(encoding="utf-8")
WIRE = (ROOT / "proto/README.md").read_text(encoding="utf-8")
DOCUMENTS = sorted(
    path for folder in (".", "docs", "proto") for path in (ROOT / folder).glob("*.md")
)


@pytest.mark.parametrize("program", ["plait_agent", "plait_collector"])
def test_every_option_is_documented(program: str) -> None:
    """Each option that a program's --help names is in docs/operating.md, under that program."""
    heading = {"plait_agent": "## The agent", "plait_collector": "## The collector"}[program]
    section = OPERATING.split(heading)[1].split("\n## ")[0]
    assert sorted(name for name in options_of(program) if f"`{name}" not in section) == []


@pytest.mark.parametrize("command", ["ls", "show", "history", "status"])
def test_every_option_of_the_command_is_documented(command: str) -> None:
    """Each option of `plait ls` and the others is in docs/api.md's part about the command."""
    section = (ROOT / "docs/api.md").read_text(encoding="utf-8").split("## The command")[1]
    told = [
        line for line in section.splitlines() if f"`{command}`" in line or "| all three" in line
    ]
    options = options_of("plait.cli", command)
    assert sorted(name for name in options if not any(f"`{name}" in line for line in told)) == []


def options_of(module: str, *arguments: str) -> set[str]:
    """The long options that a program's --help names."""
    wide = os.environ | {"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"}
    command = [sys.executable, "-m", module, *arguments, "--help"]
    answer = subprocess.run(command, capture_output=True, text=True, env=wide, check=False)
    assert answer.returncode == 0, answer.stderr
    options = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", answer.stdout)) - {"--help"}
    assert options
    return options


def test_every_environment_variable_is_documented() -> None:
    """Each variable of ours that the code names, and each launcher's, is in operating.md."""
    ours = re.compile(r"""["'](PLAIT_[A-Z_]+)["']""")
    read = {name for path in python_files(PROGRAMS) for name in ours.findall(path.read_text())}
    assert {"PLAIT_DIR", "PLAIT_COLLECTOR"} <= read
    read |= {*LAUNCHER_VARIABLES, *GPU_VARIABLES}
    assert sorted(name for name in read if f"`{name}`" not in OPERATING) == []


def test_every_call_is_documented() -> None:
    """Each RPC of the .proto files is named in proto/README.md."""
    services = [
        *ingest_pb2.DESCRIPTOR.services_by_name.values(),
        *query_pb2.DESCRIPTOR.services_by_name.values(),
    ]
    calls = [method.name for service in services for method in service.methods]
    assert {"Relay", "History"} <= set(calls)
    assert [call for call in calls if not re.search(rf"`(Ingest\.)?{call}`", WIRE)] == []


@pytest.mark.parametrize("direction", ["RelayRequest", "RelayResponse"])
def test_every_message_of_a_relay_is_documented(direction: str) -> None:
    """Each message that may travel in a relay is in the tables of proto/README.md."""
    messages = ingest_pb2.DESCRIPTOR.message_types_by_name[direction].fields
    names = [field.message_type.name for field in messages if field.message_type is not None]
    assert len(names) == len(messages)
    assert [name for name in names if f"| `{name}` |" not in WIRE] == []


@pytest.mark.parametrize("enum", ["GapReason", "RefusedReason", "CloseReason"])
def test_every_reason_is_documented(enum: str) -> None:
    """Each reason for a gap, a refusal or a close is explained in proto/README.md."""
    values = ingest_pb2.DESCRIPTOR.enum_types_by_name[enum].values_by_name
    words = [name.partition("_REASON_")[2] for name in values]
    assert [w for w in words if w != "UNSPECIFIED" and f"`{w}`" not in WIRE] == []


def test_limits_are_as_documented() -> None:
    """The values in proto/README.md's table are those of limits.py."""
    told = dict(re.findall(r"^\| `([A-Z_]+)` \| ([^|]+) \|", WIRE, flags=re.MULTILINE))
    told = {name: value for name, value in told.items() if hasattr(limits, name)}
    assert len(told) > 15
    wrong = {n: value for n, value in told.items() if value != in_words(n, getattr(limits, n))}
    assert wrong == {}


def test_limits_named_in_prose_exist() -> None:
    """Every name in capitals that proto/README.md speaks of is a limit, and in its table."""
    named = set(re.findall(r"\b[A-Z]+(?:_[A-Z]+)*_(?:MAX|MIN|S|BYTES|HEARTBEATS)\b", WIRE))
    assert sorted(name for name in named if f"| `{name}` |" not in WIRE) == []


def in_words(name: str, value: float) -> str:
    """A limit as the table writes it, with the unit that its name ends with."""
    if "BYTES" in name:
        for unit, size in (("MiB", limits.MIB), ("KiB", limits.KIB), ("B", 1)):
            if value % size == 0:
                return f"{int(value) // size:,} {unit}"
    return f"{value:g} s" if name.endswith("_S") else f"{value:,}"


def test_every_dependency_has_its_reason() -> None:
    """Each package that pyproject.toml names has a line in docs/dependencies.md."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    needed = [
        *project["project"]["dependencies"],
        *(need for extra in project["project"]["optional-dependencies"].values() for need in extra),
        *project["dependency-groups"]["dev"],
    ]
    names = {re.split(r"[^\w.-]", need)[0] for need in needed} - {"plait"}
    page = (ROOT / "docs/dependencies.md").read_text(encoding="utf-8")
    assert sorted(name for name in names if f"| `{name}` |" not in page) == []
    listed = set(re.findall(r"^\| `([\w-]+)` \|", page, flags=re.MULTILINE))
    assert sorted(listed - names) == []


def test_a_rank_has_no_dependencies() -> None:
    """The distribution without extras needs nothing."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["project"]["dependencies"] == []


def test_links_lead_somewhere() -> None:
    """Each link from one document to a file of the project finds it."""
    broken = [
        f"{path.relative_to(ROOT)}: {target}"
        for path in DOCUMENTS
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", path.read_text(encoding="utf-8"))
        if "://" not in target and not (path.parent / target).exists()
    ]
    assert broken == []


def test_the_first_screen_shows_both_commands() -> None:
    """The README names `make demo` and `make test` within its first 20 lines."""
    first_screen = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()[:20]
    assert {"make demo", "make test"} <= {" ".join(line.split()[:2]) for line in first_screen}


def test_make_says_what_it_can() -> None:
    """`make` alone lists every target with a line, and each named in the documents exists."""
    makefile = (ROOT / "Makefile").read_text()
    declared = set(re.findall(r"^\.PHONY: (.*)$", makefile, flags=re.MULTILINE)[0].split())
    described = set(re.findall(r"^([a-z]+):.*## \S", makefile, flags=re.MULTILINE))
    assert declared == described
    named = {
        target
        for path in DOCUMENTS
        for target in re.findall(
            r"(?:`|^)make ([a-z]+)(?=`|$| {2,}#| [A-Z])", path.read_text(), re.M
        )
    }
    assert named <= declared


def test_the_changelog_has_something_to_say() -> None:
    """The changelog has a section for what is not released, with an entry in it."""
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(r"^- \S", changelog.split("## Unreleased")[1], flags=re.MULTILINE)
