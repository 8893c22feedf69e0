"""The collector's configuration: one frozen value, validated once, before anything starts."""

from __future__ import annotations

import argparse
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

DEFAULT_GRPC: Final = "127.0.0.1:7431"
DEFAULT_HTTP: Final = "127.0.0.1:7432"
LOG_LEVELS: Final = ("debug", "info", "warning", "error")


class BadConfig(ValueError):
    """The collector cannot start as configured. The sentence says what to change."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen."""

    host: str
    port: int
    """0: a free one."""

    def __str__(self) -> str:
        """HOST:PORT, as one types it."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectorConfig:
    """What a collector is told at its start."""

    data: Path
    """Where the store keeps its files."""
    grpc: Address
    """Where agents and readers connect."""
    http: Address
    """Where health is told, and later the page is served."""
    log_level: str
    """debug, info, warning or error."""


def parse(arguments: Sequence[str]) -> CollectorConfig:
    """The configuration from the command line.

    Raises:
        BadConfig: something does not work. SystemExit: wrong usage, or --help.
    """
    options = _parser().parse_args(arguments)
    if not options.data:
        raise BadConfig("--data is empty; it wants a folder")
    return CollectorConfig(
        data=Path(options.data).expanduser(),
        grpc=_address("--grpc", options.grpc, insecure=options.insecure),
        http=_address("--http", options.http, insecure=options.insecure),
        log_level=options.log_level,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="plait collector",
        description="Takes the streams of all agents, keeps them, and answers what runs say.",
    )
    add = parser.add_argument
    add("--data", metavar="DIR", required=True, help="folder of the store; made if it is not there")
    add("--grpc", metavar="HOST:PORT", default=DEFAULT_GRPC, help=f"default {DEFAULT_GRPC}")
    add("--http", metavar="HOST:PORT", default=DEFAULT_HTTP, help=f"default {DEFAULT_HTTP}")
    add("--insecure", action="store_true", help="allow addresses beyond this machine, unencrypted")
    add("--log-level", choices=LOG_LEVELS, default="info")
    return parser


def _address(option: str, text: str, *, insecure: bool) -> Address:
    host, colon, port = text.rpartition(":")
    bare = host.removeprefix("[").removesuffix("]")
    if ":" in bare and bare == host:
        raise BadConfig(f"{option} {text!r}: an IPv6 address stands in brackets, [::1]:7431")
    if not colon or not bare or not port.isascii() or not port.isdigit():
        raise BadConfig(f"{option} {text!r} is no HOST:PORT")
    if int(port) > 65535:
        raise BadConfig(f"{option} {text!r}: a port is 0 to 65535")
    if not is_loopback(bare) and not insecure:
        raise BadConfig(
            f"{option} {text!r} can be reached from other machines, and connections are neither "
            f"encrypted nor checked for who they are: say --insecure if that is meant"
        )
    return Address(bare, int(port))


def is_loopback(host: str) -> bool:
    """Whether host names this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
