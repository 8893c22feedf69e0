"""Whether a frame's rows fit the schemas that its segment defined before the frame.

A scan looks at a frame alone, so that it can run anywhere; what it could not know is checked here,
at the cost of a look-up per schema.
"""

from __future__ import annotations

from collections.abc import Mapping

from plait_collector.scan import Scanned
from plaitwire import limits, records


def first_misfit(
    payload: bytes, scanned: Scanned, known: Mapping[int, int]
) -> tuple[int, str] | None:
    """Where in a frame the first record stands that its segment does not allow; None: nowhere.

    Args:
        payload: the frame's records.
        scanned: what scan made of them.
        known: schema id to number of values, of the segment before the frame.
    """
    fits = all(known.get(schema) == values for schema, values in scanned.needs.items())
    anew = scanned.defines.keys() & known.keys()
    count = len(known) + len(scanned.defines)
    if fits and not anew and count <= limits.SCHEMAS_PER_SEGMENT_MAX:
        return None
    return _search(payload[: scanned.size], known)


def _search(payload: bytes, known: Mapping[int, int]) -> tuple[int, str]:
    schemas = dict(known)
    for record in records.scan(payload):
        if record.kind is records.Kind.SCHEMA:
            if record.schema in schemas:
                return record.offset, f"schema {record.schema} is defined twice in a segment"
            if len(schemas) == limits.SCHEMAS_PER_SEGMENT_MAX:
                return record.offset, f"more than {len(schemas)} schemas in a segment"
            schemas[record.schema] = len(record.json())
        elif record.kind is records.Kind.ROW:
            values = (record.size - records.ROW_HEADER.size) // 8
            if record.schema not in schemas:
                return record.offset, f"a row of schema {record.schema}, which was not defined"
            if schemas[record.schema] != values:
                return record.offset, (
                    f"a row of {values} values, of a schema with {schemas[record.schema]} keys"
                )
    raise AssertionError("the scan found a misfit that is not there")
