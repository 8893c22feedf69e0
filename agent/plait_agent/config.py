"""The agent's configuration: one frozen value, validated once, before anything starts."""

from __future__ import annotations

import argparse
import ipaddress
import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from plaitwire.folders import CONTROL_SOCKET, Folders, UnusableFolder, resolve
from plaitwire.names import identifier_flaw

DEFAULT_COLLECTOR: Final = "127.0.0.1:7431"
HEALTH_SOCKET: Final = "health.sock"
LOG_LEVELS: Final = ("debug", "info", "warning", "error")
_SOCKET_PATH_BYTES_MAX: Final = 107
"""What a Unix socket's address has room for."""


class BadConfig(ValueError):
    """The agent cannot start as configured. The sentence says what to change."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentConfig:
    """What an agent is told at its start."""

    folders: Folders
    """Where record logs are."""
    collector: str
    """HOST:PORT of the collector's gRPC listener."""
    node: str
    """This machine's name in all answers."""
    grpc: str | None
    """HOST:PORT where health is served on TCP, too; None: on the Unix socket alone."""
    log_level: str
    """debug, info, warning or error."""
    idle_exit_s: float | None
    """End once everything is delivered and no writer has lived for this long; None: never."""


def parse(arguments: Sequence[str], environ: Mapping[str, str]) -> AgentConfig:
    """The configuration from the command line and, where that is silent, the environment.

    Raises:
        BadConfig: something does not work. SystemExit: wrong usage, or --help.
    """
    options = _parser().parse_args(arguments)
    settings = dict(environ)
    if options.dir is not None:
        settings["PLAIT_DIR"] = options.dir
    if options.hot_dir is not None:
        settings["PLAIT_HOT_DIR"] = options.hot_dir
    try:
        folders = resolve(settings, os.geteuid())
    except UnusableFolder as error:
        raise BadConfig(str(error)) from error
    for name in (CONTROL_SOCKET, HEALTH_SOCKET):
        if len(os.fsencode(folders.hot / name)) > _SOCKET_PATH_BYTES_MAX:
            raise BadConfig(
                f"{folders.hot / name} is too long for a socket's name: set PLAIT_HOT_DIR to a "
                f"folder with a shorter one"
            )
    node = options.node if options.node is not None else socket.gethostname()
    if flaw := identifier_flaw("node", node):
        raise BadConfig(f"{flaw}; choose one with --node")
    collector = options.collector or environ.get("PLAIT_COLLECTOR") or DEFAULT_COLLECTOR
    _check_address("--collector", collector, port_min=1, insecure=options.insecure)
    if options.grpc is not None:
        _check_address("--grpc", options.grpc, port_min=0, insecure=options.insecure)
    if options.exit_when_idle is not None and not options.exit_when_idle > 0:
        raise BadConfig("--exit-when-idle wants more than 0 seconds")
    return AgentConfig(
        folders=folders,
        collector=collector,
        node=node,
        grpc=options.grpc,
        log_level=options.log_level,
        idle_exit_s=options.exit_when_idle,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="plait agent",
        description="Relays the streams that ranks write on this node to a collector.",
    )
    add = parser.add_argument
    add("--collector", metavar="HOST:PORT", help=f"default $PLAIT_COLLECTOR or {DEFAULT_COLLECTOR}")
    add("--node", metavar="NAME", help="this machine's name; default: its host name")
    add(
        "--dir", metavar="DIR", help="folder on disk; default $PLAIT_DIR or the user's state folder"
    )
    add("--hot-dir", metavar="DIR", help="folder in memory; default $PLAIT_HOT_DIR or in /dev/shm")
    add("--grpc", metavar="HOST:PORT", help="serve gRPC health on TCP, too")
    add("--insecure", action="store_true", help="allow addresses beyond this machine, unencrypted")
    add("--log-level", choices=LOG_LEVELS, default="info")
    add(
        "--exit-when-idle",
        metavar="SECONDS",
        type=float,
        help="end once all is delivered and no writer has lived for so long",
    )
    return parser


def _check_address(option: str, address: str, *, port_min: int, insecure: bool) -> None:
    host, colon, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not host or not port.isascii() or not port.isdigit():
        raise BadConfig(f"{option} {address!r} is no HOST:PORT")
    if not port_min <= int(port) <= 65535:
        raise BadConfig(f"{option} {address!r}: a port is {port_min} to 65535")
    if not is_loopback(host) and not insecure:
        raise BadConfig(
            f"{option} {address!r} is not on this machine, and the connection is not encrypted: "
            f"say --insecure if that is meant"
        )


def is_loopback(host: str) -> bool:
    """Whether host names this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
