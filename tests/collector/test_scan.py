"""What ingest learns of a frame: the same records as plaitwire.records.scan sees, told faster."""

from __future__ import annotations

from dataclasses import replace

import google_crc32c
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from plait_collector import scan
from plait_collector.scan import BadFrame, Scanned, Unpacked
from plait_collector.steps import Steps
from plaitwire import limits
from plaitwire import records as r
from plaitwire.v1 import ingest_pb2 as pb


def row(schema: int = 1, step: int = 0, values: int = 2, automatic: bool = False) -> bytes:
    """A row of zeros at a step, written at time 7."""
    return r.pack_row(schema, step, 7, [0.0] * values, automatic=automatic)


def frame_of(payload: bytes, encoding: pb.Encoding.ValueType = pb.ENCODING_RAW) -> pb.Frame:
    """A frame that says the truth about payload, compressed if asked."""
    crc32c = google_crc32c.value(payload)
    body = zstandard.compress(payload) if encoding == pb.ENCODING_ZSTD else payload
    return pb.Frame(size=len(payload), crc32c=crc32c, encoding=encoding, payload=body)


def slowly(payload: bytes) -> Scanned:
    """rescan, told record by record in the plainest way there is."""
    rows, steps, last_ns, size, flaw = 0, Steps(), 0, 0, None
    needs: dict[int, int] = {}
    defines: dict[int, int] = {}
    lifted: list[tuple[int, int]] = []
    try:
        for record in r.scan(payload):
            size = record.offset
            flaw = flaw_of(record, needs, defines)
            if flaw is not None:
                break
            if record.kind in (r.Kind.ROW, r.Kind.EVENT) and record.step != r.NO_STEP:
                automatic = bool(record.flags & r.FLAG_AUTOMATIC_STEP)
                one = Steps(record.step, None) if automatic else Steps(None, record.step)
                steps = steps.then(one)
            rows += record.kind is r.Kind.ROW
            if record.time_ns > 0 and not is_agents_finish(record):
                last_ns = record.time_ns
            if record.kind is not r.Kind.ROW:
                lifted.append((record.offset, record.kind))
            size = record.offset + r.aligned(record.size)
    except r.Damaged as damage:
        size, flaw = damage.offset, damage.why
    assert flaw is not None or size == len(payload)
    found = scan.rescan(payload)
    assert [(one.offset, one.kind) for one in found.lifted] == lifted
    return Scanned(size, rows, steps, last_ns, found.lifted, needs, defines, flaw and "")


def flaw_of(record: r.Record, needs: dict[int, int], defines: dict[int, int]) -> str | None:
    """Why a well-formed record is still not taken; keeps the books on schemas."""
    kind = record.kind
    bad_step = not r.STEP_MIN <= record.step <= r.STEP_MAX
    if kind is not r.Kind.SCHEMA and bad_step and (kind is r.Kind.ROW or record.step != r.NO_STEP):
        return "step"
    if kind is r.Kind.ROW:
        values = (record.size - 24) // 8
        known = defines.get(record.schema, needs.get(record.schema, values))
        if known == values and record.schema not in defines:
            needs[record.schema] = values
        return None if known == values else "values"
    if kind is r.Kind.SCHEMA:
        keys = json_or_none(record)
        if record.schema in defines or record.schema in needs:
            return "twice"
        if not isinstance(keys, list) or not all(isinstance(k, str) and k for k in keys):
            return "keys"
        if len(set(keys)) < len(keys):
            return "keys"
        defines[record.schema] = len(keys)
    whole = kind in (r.Kind.FINISH, r.Kind.GAP, r.Kind.DEFINE_METRIC)
    if whole and (record.flags & r.FLAG_CONTINUED or not isinstance(json_or_none(record), dict)):
        return "body"
    return None


def json_or_none(record: r.Record) -> object:
    """The body's JSON; None where it is none."""
    try:
        return record.json()
    except ValueError:
        return None


def is_agents_finish(record: r.Record) -> bool:
    """Whether an agent wrote this finish, for a writer that was gone."""
    if record.kind is not r.Kind.FINISH:
        return False
    said = json_or_none(record)
    return isinstance(said, dict) and said.get("by") == "agent"


STEPS = st.one_of(st.integers(-3, 9), st.sampled_from([r.STEP_MIN, r.STEP_MAX]))
TIMES = st.sampled_from([-1, 0, 5, 6, 7])
RECORDS = st.one_of(
    st.builds(
        lambda n, schema, step, automatic, time_ns: b"".join(
            r.pack_row(schema, step + i % 3, time_ns, [0.5] * schema, automatic=automatic)
            for i in range(n)
        ),
        st.sampled_from([1, 2, 15, 17, 18, 90]),
        st.integers(0, 3),
        st.integers(-3, 9),
        st.booleans(),
        TIMES,
    ),
    st.builds(
        lambda schema, extra: r.pack_schema(schema, [f"k{i}" for i in range(schema + extra)]),
        st.integers(0, 5),
        st.sampled_from([0, 0, 0, 1]),
    ),
    st.builds(
        lambda kind, value, step, time_ns, flags: r.pack_json(
            kind, value, step=step, time_ns=time_ns, flags=flags
        ),
        st.sampled_from(sorted(r.JSON_KINDS)),
        st.sampled_from([{}, {"by": "agent"}, {"reason": "quota", "records": 3, "total": 3}]),
        st.one_of(STEPS, st.just(r.NO_STEP)),
        TIMES,
        st.sampled_from([0, 0, r.FLAG_AUTOMATIC_STEP]),
    ),
)
PAYLOADS = st.lists(RECORDS, min_size=1, max_size=12).map(b"".join)


@given(PAYLOADS)
def test_scan_tells_what_the_plain_reader_tells(payload: bytes) -> None:
    """Well-formed records of every kind are counted as records.scan gives them."""
    found = scan.rescan(payload)
    assert replace(found, flaw=found.flaw and "") == slowly(payload)


@settings(max_examples=300)
@given(PAYLOADS, st.data())
def test_scan_stops_where_the_plain_reader_stops(payload: bytes, data: st.DataObject) -> None:
    """Whatever bytes are changed or cut off: the same good prefix, and no error but the flaw."""
    broken = bytearray(payload)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(broken) - 1))
        broken[at] = data.draw(st.integers(0, 255))
    cut = bytes(broken[: data.draw(st.integers(0, len(broken)))])
    found = scan.rescan(cut)
    assert replace(found, flaw=found.flaw and "") == slowly(cut)


@given(PAYLOADS, st.integers(0, 2**16))
def test_any_cut_gives_the_same_steps(payload: bytes, chance: int) -> None:
    """A frame cut between two records has the same rows and steps in its parts as in the whole."""
    whole = scan.rescan(payload)
    places = [record.offset for record in r.scan(payload[: whole.size])] or [0]
    at = places[chance % len(places)]
    first, rest = scan.rescan(payload[:at]), scan.rescan(payload[at : whole.size])
    assert first.rows + rest.rows == whole.rows
    assert first.steps.then(rest.steps) == whole.steps
    assert (rest.last_ns or first.last_ns) == whole.last_ns


def test_a_lone_row_takes_the_short_way() -> None:
    """The tiny frame of one row is told as any other."""
    payload = row(schema=3, step=-4, values=5)
    found = scan.rescan(payload)
    assert found == Scanned(len(payload), 1, Steps(None, -4), 7, (), {3: 5}, {}, None)
    automatic = scan.rescan(row(automatic=True))
    assert automatic.steps == Steps(0, None)


def test_a_row_past_the_allowed_steps_is_a_flaw() -> None:
    """A step that no sum could hold is refused where it stands, in short and long runs alike."""
    for count in (0, 1, 40):
        good = b"".join(row(step=i) for i in range(count))
        found = scan.rescan(good + row(step=r.STEP_MAX + 1) + row())
        assert (found.size, found.rows) == (len(good), count)
        assert found.flaw is not None
        assert "step" in found.flaw


def test_a_schema_must_name_keys_once_each() -> None:
    """Schemas that are no array of different keys are flaws; an empty one is a schema."""
    bad = [b"{}", b"[1]", b'["a","a"]', b'[""]', b"[", b"\xff\xff", b"[" * 200_000, b'["\\ud800"]']
    for body in bad:
        found = scan.rescan(row() + r.pack_record(r.Kind.SCHEMA, body, schema=9))
        assert (found.size, found.rows) == (len(row()), 1), body[:20]
        assert found.flaw
    assert scan.rescan(r.pack_record(r.Kind.SCHEMA, b"[]", schema=9)).defines == {9: 0}


def test_a_row_must_have_its_schemas_keys() -> None:
    """A row with more values than its schema has keys is a flaw, also where both are unknown."""
    schema = r.pack_schema(1, ["a", "b"])
    assert scan.rescan(schema + row(values=2)).flaw is None
    assert scan.rescan(schema + row(values=3)).size == len(schema)
    assert scan.rescan(row(values=2) + row(values=3)).size == len(row(values=2))
    assert scan.rescan(row(values=2) + schema).flaw == ("schema 1 is defined twice in a segment")


def test_too_many_schemas_are_a_flaw() -> None:
    """The segment's limit of schemas holds within a frame."""
    schemas = [r.pack_schema(i, ["k"]) for i in range(limits.SCHEMAS_PER_SEGMENT_MAX + 1)]
    found = scan.rescan(b"".join(schemas))
    assert len(found.defines) == limits.SCHEMAS_PER_SEGMENT_MAX
    assert found.size == sum(map(len, schemas[:-1]))


def test_a_gap_knows_what_stood_before_it() -> None:
    """A gap record carries the steps and rows of its frame before it."""
    gap = r.pack_json(r.Kind.GAP, {"reason": "quota", "records": 2, "total": 2})
    payload = row(automatic=True) + row(step=8) + gap + row(step=20)
    (lifted,) = scan.rescan(payload).lifted
    assert (lifted.steps, lifted.rows) == (Steps(0, 8), 2)


def test_bodies_kept_as_bytes_are_not_judged() -> None:
    """A config or event that is no JSON costs only itself, later; a finish is looked at now."""
    for kind in (r.Kind.CONFIG, r.Kind.EVENT, r.Kind.CONSOLE, r.Kind.SUMMARY):
        assert scan.rescan(r.pack_record(kind, b"{", step=0)).flaw is None
    for kind in (r.Kind.FINISH, r.Kind.GAP, r.Kind.DEFINE_METRIC):
        assert scan.rescan(r.pack_record(kind, b"[]")).flaw is not None
        assert scan.rescan(r.pack_record(kind, b"{}", flags=r.FLAG_CONTINUED)).flaw is not None


@pytest.mark.parametrize("encoding", [pb.ENCODING_RAW, pb.ENCODING_ZSTD])
def test_unpack_gives_the_records(encoding: pb.Encoding.ValueType) -> None:
    """A frame unpacks to its bytes, compressed or not, at once or in slices."""
    payload = r.pack_schema(1, ["a", "b"]) + b"".join(row(step=i) for i in range(100))
    frame = frame_of(payload, encoding)
    opened = scan.unpack(frame)
    assert (opened.payload, opened.crc32c) == (payload, google_crc32c.value(payload))
    assert in_slices(frame)[0] == opened


def in_slices(frame: pb.Frame) -> tuple[Unpacked, int]:
    """What unpack_slices gives, and how often it gave way."""
    slices, count = scan.unpack_slices(frame), 0
    while True:
        try:
            next(slices)
        except StopIteration as end:
            return end.value, count
        count += 1


def test_the_smallest_records_are_scanned_in_slices() -> None:
    """A whole frame of the smallest rows and records gives way again and again."""
    rows = b"".join(row(schema=i & 1, values=0) for i in range(limits.FRAME_BYTES_MAX // 24))
    opened, count = in_slices(frame_of(rows))
    assert opened.scanned.rows == limits.FRAME_BYTES_MAX // 24
    assert count >= opened.scanned.rows // scan.SLICE_STEPS
    lines = r.pack_record(r.Kind.CONSOLE, b"") * (limits.FRAME_BYTES_MAX // 24)
    assert in_slices(frame_of(lines))[1] >= opened.scanned.rows // scan.SLICE_STEPS


def test_a_frame_that_lies_is_bad() -> None:
    """Size, checksum and encoding are checked before anything is read."""
    good = frame_of(row())
    lies: list[dict[str, object]] = [
        {"size": 0},
        {"size": len(row()) + 8},
        {"size": limits.FRAME_BYTES_MAX + 8},
        {"crc32c": good.crc32c ^ 1},
        {"encoding": pb.ENCODING_UNSPECIFIED},
        {"encoding": pb.ENCODING_ZSTD},
        {"payload": row()[:-8]},
    ]
    for lie in lies:
        frame = pb.Frame()
        frame.CopyFrom(good)
        for name, value in lie.items():
            setattr(frame, name, value)
        with pytest.raises(BadFrame):
            scan.unpack(frame)


def test_a_zstd_bomb_is_not_inflated() -> None:
    """A payload that would grow past its frame's size is refused, whatever it says itself."""
    zeros = bytes(64 * limits.MIB)
    honest = zstandard.ZstdCompressor().compress(zeros)
    silent = zstandard.ZstdCompressor(write_content_size=False).compress(zeros)
    wide = zstandard.ZstdCompressor(
        compression_params=zstandard.ZstdCompressionParameters(
            window_log=27, write_content_size=False
        )
    ).compress(zeros)
    for bomb in (honest, silent, wide, silent[:-20], honest + b"more"):
        frame = frame_of(row() * 100)
        frame.encoding, frame.payload = pb.ENCODING_ZSTD, bomb
        with pytest.raises(BadFrame):
            scan.unpack(frame)


def test_a_row_that_is_no_record_needs_no_schema() -> None:
    """What a scan says its rows need is said of rows it took, never of the one it stopped at."""
    absurd = r.pack_row(7, -(2**63), 1, [0.5])
    found = scan.rescan(r.pack_row(0, 1, 1, [0.5]) + absurd)
    assert (found.rows, found.needs) == (1, {0: 1})
    assert found.flaw is not None
