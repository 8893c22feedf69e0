"""Telemetry of distributed training: every rank's ordered stream, woven into one run.

    run = plait.init(project="digits", config={"lr": 3e-4})
    run.log({"loss": 0.5})
    run.finish()

Writing needs the standard library alone. Reading, with plait.Api, needs
`pip install 'plait[query]'`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from plait._version import __version__
from plait.run import Run, init

if TYPE_CHECKING:
    from plait.api import Api

__all__ = ["Api", "Run", "__version__", "init"]


def __getattr__(name: str) -> Any:
    if name != "Api":
        raise AttributeError(f"module 'plait' has no attribute {name!r}")
    try:
        from plait.api import Api
    except ModuleNotFoundError as error:
        if error.name is not None and error.name.split(".")[0] == "plait":
            raise
        raise ModuleNotFoundError(
            f"plait.Api needs {error.name}: pip install 'plait[query]'", name=error.name
        ) from error
    return Api
