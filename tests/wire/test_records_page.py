"""proto/RECORDS.md says what the code does: its test vectors hold in both directions."""

from __future__ import annotations

import json
import re
import struct
from pathlib import Path
from typing import Any

import pytest

from plaitwire import records
from plaitwire.folders import DropStatus, pack_status, unpack_status
from plaitwire.limits import (
    CONTINUED_BYTES_MAX,
    META_BYTES_MAX,
    MIB,
    RECORD_BYTES_MAX,
    SCHEMAS_PER_SEGMENT_MAX,
    SEGMENT_BYTES_MAX,
    SEGMENT_BYTES_MIN,
)
from plaitwire.records import (
    FLAG_AUTOMATIC_STEP,
    FLAG_CONTINUED,
    NO_STEP,
    Damaged,
    Kind,
    pack_record,
    pack_row,
    pack_schema,
    pack_segment_header,
    scan,
    unpack_segment_header,
)

PAGE = (Path(__file__).parents[2] / "proto/RECORDS.md").read_text(encoding="utf-8")
FOUND = re.findall(r"```vector ([^\n]+)\n([^\n]+)\n([0-9a-f\s]+?)\n?```", PAGE)
VECTORS = {name: (json.loads(said), bytes.fromhex(data)) for name, said, data in FOUND}
FLAGS = {"automatic_step": FLAG_AUTOMATIC_STEP, "continued": FLAG_CONTINUED}
SEGMENTS = {"segment header: base 65472, 104 committed bytes", "whole segment"}
DAMAGED = {name for name in VECTORS if name.startswith("damaged")}
RECORDS = VECTORS.keys() - SEGMENTS - DAMAGED - {"status page"}


def packed(said: dict[str, Any]) -> bytes:
    """The records that a vector describes, as the code packs them."""
    kind = Kind[said["kind"].upper()]
    flags = sum(FLAGS[flag] for flag in said.get("flags", ()))
    step, time_ns = said.get("step", NO_STEP), said.get("time_ns", 0)
    if kind is Kind.SCHEMA:
        return pack_schema(said["schema"], said["keys"])
    if kind is Kind.ROW:
        values = list(map(float, said["values"]))
        return pack_row(said["schema"], step, time_ns, values, automatic=bool(flags))
    body = json.dumps(said["json"], ensure_ascii=False, separators=(",", ":")).encode()
    data = b""
    for at, size in enumerate(pieces := said.get("pieces", [len(body)])):
        more = FLAG_CONTINUED if at + 1 < len(pieces) else 0
        piece, body = body[:size], body[size:]
        data += pack_record(kind, piece, step=step, time_ns=time_ns, flags=flags | more)
    return data


def test_the_page_has_vectors() -> None:
    """Every kind of vector was found on the page."""
    assert len(FOUND) == PAGE.count("```vector")
    assert len(RECORDS) >= 9
    assert len(DAMAGED) >= 6


@pytest.mark.parametrize("name", sorted(RECORDS))
def test_records_are_packed_so(name: str) -> None:
    """The code makes of what a vector says the bytes of the vector."""
    said, data = VECTORS[name]
    assert packed(said).hex() == data.hex()


@pytest.mark.parametrize("name", sorted(RECORDS))
def test_records_are_read_so(name: str) -> None:
    """The code reads from a vector's bytes what the vector says."""
    said, data = VECTORS[name]
    found = list(scan(data))
    kind = Kind[said["kind"].upper()]
    assert {record.kind for record in found} == {kind}
    assert found[0].schema == said.get("schema", 0)
    assert found[0].step == said.get("step", NO_STEP)
    assert found[0].time_ns == said.get("time_ns", 0)
    if kind is Kind.ROW:
        assert repr(list(found[0].body.cast("d"))) == repr(list(map(float, said["values"])))
    else:
        body = json.loads(b"".join(bytes(record.body) for record in found))
        assert body == said.get("keys", said.get("json"))
    assert [bool(record.flags & FLAG_CONTINUED) for record in found] == [True] * (
        len(found) - 1
    ) + [False]


@pytest.mark.parametrize("name", sorted(DAMAGED))
def test_damage_is_found(name: str) -> None:
    """The code finds a damaged vector's first bad record where the page says."""
    said, data = VECTORS[name]
    with pytest.raises(Damaged) as found:
        list(scan(data))
    assert found.value.offset == said["offset"]


@pytest.mark.parametrize("name", sorted(SEGMENTS))
def test_segments(name: str) -> None:
    """A segment's header is packed and read as the page says, and its records are its kinds."""
    said, data = VECTORS[name]
    assert pack_segment_header(said["base"], said["committed"]) == data[:64]
    assert unpack_segment_header(data[:64]) == (said["base"], said["committed"])
    kinds = [record.kind.word for record in scan(data[64 : 64 + said["committed"]])]
    assert "kinds" not in said or kinds == said["kinds"]


def test_the_status_page() -> None:
    """A status page is packed and read as the page says."""
    said, data = VECTORS["status page"]
    status = DropStatus(**said)
    assert pack_status(status) == data
    assert unpack_status(data) == status


def test_the_pages_kinds() -> None:
    """Each kind is in the table under its number."""
    for kind in Kind:
        assert re.search(rf"\| [^|\n]*\b{int(kind)}\b[^|]*\| [^|]*\b{kind.word}\b", PAGE), kind


def test_the_pages_numbers() -> None:
    """Limits and places on the page are the code's."""
    for number in (META_BYTES_MAX, SEGMENT_BYTES_MIN, RECORD_BYTES_MAX, SCHEMAS_PER_SEGMENT_MAX):
        assert f"{number:,}" in PAGE
    assert f"at most {CONTINUED_BYTES_MAX // MIB} MiB" in PAGE
    assert f"at most {SEGMENT_BYTES_MAX // MIB} MiB" in PAGE
    assert records.COMMIT_AT == 24
    assert struct.calcsize("<8sIIQQ32x") == records.SEGMENT_HEADER.size == 64
