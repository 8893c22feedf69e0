"""The connection to a collector: one gRPC channel, and its errors in words that say what to do."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from typing import Any, Final, TypeVar

import grpc

from plait.settings import DEFAULT_COLLECTOR
from plaitwire.limits import MIB
from plaitwire.status import NotFound, Unavailable, WireError, WrongVersion, error_for
from plaitwire.v1 import query_pb2_grpc

T = TypeVar("T")

ANSWER_BYTES_MAX: Final = 256 * MIB
"""One message of an answer; a config alone may be 8 MiB a label."""
OPTIONS: Final = (
    ("grpc.max_receive_message_length", ANSWER_BYTES_MAX),
    ("grpc.enable_http_proxy", 0),  # A proxy for the web does not lead to a collector.
)
_ADDRESS: Final = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^:/\s\[\]]+):([0-9]{1,5})")
_NO_CONNECTION: Final = ("connect", "socket", "resolution", "resolving", "goaway")


def collector_address(address: str | None) -> str:
    """Where the collector is: the address given, else PLAIT_COLLECTOR, else this machine.

    Raises:
        ValueError: it is no HOST:PORT.
    """
    found = address or os.environ.get("PLAIT_COLLECTOR") or DEFAULT_COLLECTOR
    matched = _ADDRESS.fullmatch(found)
    if matched is None or not 0 < int(matched.group(2)) < 65536:
        raise ValueError(f"the collector's address {found!r} is no HOST:PORT, like 127.0.0.1:7431")
    return found


class Channel:
    """One connection. It is made at the first call, and again by itself where it broke."""

    def __init__(self, address: str | None, timeout_s: float) -> None:
        """
        Args:
            address: HOST:PORT; None: PLAIT_COLLECTOR, else this machine.
            timeout_s: how long one answer may take, in seconds; streams of answers may take longer.
        """
        self.address = collector_address(address)
        self._timeout_s = timeout_s
        self._is_closed = False
        self._channel = grpc.insecure_channel(self.address, options=OPTIONS)
        self.query = query_pb2_grpc.QueryStub(self._channel)

    def ask(self, call: Callable[..., T], request: Any) -> T:
        """One answer.

        Raises:
            ValueError: it is closed.
            WireError: what went wrong, and what to do.
        """
        self._check_open()
        try:
            return call(request, timeout=self._timeout_s)
        except grpc.RpcError as error:
            raise self._translated(error) from None

    def stream(self, call: Callable[..., Any], request: Any) -> Iterator[Any]:
        """Answers as they come; the call ends when nobody takes more of them.

        Raises:
            ValueError: it is closed.
            WireError: what went wrong, and what to do.
        """
        self._check_open()
        answers = call(request)
        try:
            yield from answers
        except grpc.RpcError as error:
            raise self._translated(error) from None
        finally:
            answers.cancel()

    def close(self) -> None:
        """End the connection. Safe to call twice."""
        self._is_closed = True
        self._channel.close()

    def _check_open(self) -> None:
        if self._is_closed:
            raise ValueError("this plait.Api is closed; make another one: plait.Api()")

    def _translated(self, error: Any) -> WireError:
        code, details = error.code(), error.details() or ""
        known = error_for(code, details)
        if code is grpc.StatusCode.DEADLINE_EXCEEDED:
            return Unavailable(
                f"the collector at {self.address} did not answer within {self._timeout_s:g} s; "
                f"ask again, or give it longer: plait.Api(..., timeout_s=)"
            )
        if isinstance(known, WrongVersion):
            return WrongVersion(
                f"what answers at {self.address} is no collector of this version ({details}); "
                f"the HTTP port is another one"
            )
        if type(known) is Unavailable and "http1.x" in details.lower():
            return Unavailable(
                f"what answers at {self.address} speaks no gRPC: a collector's gRPC port is "
                f"another one than its HTTP port, 7431 by default ({details})"
            )
        if type(known) is Unavailable and any(w in details.lower() for w in _NO_CONNECTION):
            return Unavailable(
                f"no collector answers at {self.address}; start one with `plait collector --data "
                f"DIR`, or say where it is: PLAIT_COLLECTOR=HOST:PORT, plait.Api('HOST:PORT') "
                f"({details})"
            )
        if isinstance(known, NotFound):
            return NotFound(f"{details} (at {self.address})")
        return known
