"""Reading runs back, from any program: `plait.Api`. Needs the extra `query`.

    api = plait.Api("127.0.0.1:7431")
    run = api.run("digits/exp-7")
    table = run.history(keys=["loss"])      # a pyarrow.Table

What cannot be answered raises one of plaitwire.status's errors, with a sentence that says what to
do: NotFound, Refused, Unavailable, WrongVersion, all of them WireError.
"""

from __future__ import annotations

try:
    import grpc as _grpc  # noqa: F401
    import pyarrow as _pyarrow  # noqa: F401
except ModuleNotFoundError as missing:
    raise ModuleNotFoundError(
        f"reading runs needs {missing.name}: pip install 'plait[query]'", name=missing.name
    ) from missing

from plait.api.client import Api
from plait.api.run import Run
from plait.api.values import Attempt, Event, Frontier, Gap, Label, Session
from plaitwire.status import NotFound, Refused, Unavailable, WireError, WrongVersion

__all__ = [
    "Api",
    "Attempt",
    "Event",
    "Frontier",
    "Gap",
    "Label",
    "NotFound",
    "Refused",
    "Run",
    "Session",
    "Unavailable",
    "WireError",
    "WrongVersion",
]
