"""Why a call was not carried out, and the gRPC status that says it: one table, both directions.

WireError
├─ Refused       the same call would be refused again
│  ├─ NotFound       what it names is not there
│  └─ WrongVersion   the ends speak different versions
└─ Unavailable   the same call may succeed later
"""

from __future__ import annotations

from typing import Final

import grpc


class WireError(Exception):
    """A call that was not carried out. Never raised as itself."""


class Refused(WireError):
    """The same call would be refused again."""


class NotFound(Refused):
    """What the call names is not there."""


class WrongVersion(Refused):
    """The two ends speak different versions."""


class Unavailable(WireError):
    """The same call may succeed later."""


_CODES: Final[dict[type[WireError], grpc.StatusCode]] = {
    Refused: grpc.StatusCode.INVALID_ARGUMENT,
    NotFound: grpc.StatusCode.NOT_FOUND,
    WrongVersion: grpc.StatusCode.FAILED_PRECONDITION,
    Unavailable: grpc.StatusCode.UNAVAILABLE,
}
_ERRORS: Final = {code: error for error, code in _CODES.items()} | {
    grpc.StatusCode.UNIMPLEMENTED: WrongVersion,
    grpc.StatusCode.OUT_OF_RANGE: Refused,
    grpc.StatusCode.PERMISSION_DENIED: Refused,
    grpc.StatusCode.UNAUTHENTICATED: Refused,
}


def code_for(error: WireError) -> grpc.StatusCode:
    """The status that tells error to the other end."""
    return _CODES[type(error)]


def error_for(code: grpc.StatusCode, details: str) -> WireError:
    """The error that a status tells. A status unknown to us may be retried."""
    return _ERRORS.get(code, Unavailable)(details)
