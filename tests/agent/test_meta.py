"""meta.json as anybody may have written it: taken as it is, or refused with a sentence."""

from __future__ import annotations

import json
from typing import Any

import pytest

from plait_agent.meta import BadMeta, parse_meta
from plaitwire.limits import META_BYTES_MAX

SESSION = "a" * 32


def meta(**change: Any) -> bytes:
    """A right meta.json, but for a change."""
    value = {"session": SESSION, "kind": "run", "project": "p", "run": "r", "label": "0"}
    return json.dumps(value | change).encode()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\xfe",
        b"[]",
        b"null",
        b"[" * 30_000,
        meta(kind=[]),
        meta(kind={}),
        meta(kind="edit"),
        meta(kind=1),
        meta(session=[]),
        meta(label=None),
        meta(label=["0"]),
        meta(label="x" * 129),
        meta(run=""),
        meta(project="a/b"),
        meta(parent="nobody"),
        meta(group="a,b"),
        meta(host=5),
        meta(host="\ud800"),
        meta(pid="1"),
        meta(pid=2**80),
        meta(started_ns=1.5),
        meta(extra={"x": "\udfff"}),
        meta(extra="y" * META_BYTES_MAX),
    ],
    ids=lambda data: repr(data[-40:]),
)
def test_nonsense_is_refused_with_a_sentence(data: bytes) -> None:
    """Whatever a file holds, it is a meta or a BadMeta: no other error reaches the agent."""
    with pytest.raises(BadMeta, match=r"\w+ \w+"):
        parse_meta(data, SESSION, host="h")


@pytest.mark.parametrize("depth", [100, 900, 950, 960, 970, 980, 990, 1000, 20_000])
def test_what_is_nested_deep_is_no_other_error(depth: int) -> None:
    """An extra that is nested as deep as may just be read is sent or refused, and nothing else."""
    extra = '{"x":' * depth + "1" + "}" * depth
    data = meta(extra="HERE").replace(b'"HERE"', extra.encode())
    try:
        parse_meta(data, SESSION, host="h")
    except BadMeta as error:
        assert "meta.json" in str(error)  # noqa: PT017  # Either answer is right.


def test_an_extra_that_fits_the_file_fits_the_wire() -> None:
    """Many small values take no more room on the wire than in a file of the largest size."""
    value = json.loads(meta()) | {"extra": {"argv": [0] * 32_000}}
    data = json.dumps(value, separators=(",", ":")).encode()
    assert META_BYTES_MAX - 2000 < len(data) <= META_BYTES_MAX
    assert parse_meta(data, SESSION, host="h").ByteSize() <= META_BYTES_MAX
