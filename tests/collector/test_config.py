"""The collector's options: what they mean, and which are refused before anything starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from plait_collector.config import Address, BadConfig, parse


def test_defaults_are_loopback() -> None:
    """Told nothing but a folder, it listens where only this machine can reach it."""
    config = parse(["--data", "here"])
    assert config.data == Path("here")
    assert (str(config.grpc), str(config.http)) == ("127.0.0.1:7431", "127.0.0.1:7432")


@pytest.mark.parametrize(
    "address", ["7431", "host:", ":7431", "127.0.0.1:port", "127.0.0.1:70000", "::1:7431", "h:-1"]
)
def test_a_bad_address_is_named(address: str) -> None:
    """The option and the address stand in the sentence."""
    with pytest.raises(BadConfig, match="--grpc"):
        parse(["--data", "here", "--grpc", address])


@pytest.mark.parametrize(
    "address", ["0.0.0.0:7431", "[::]:0", "collector.example:7431", "10.0.0.1:1"]
)
def test_other_machines_need_a_word(address: str) -> None:
    """An address that others can reach wants --insecure, and says so."""
    for option in ("--grpc", "--http"):
        with pytest.raises(BadConfig, match="--insecure"):
            parse(["--data", "here", option, address])
        parse(["--data", "here", option, address, "--insecure"])


@pytest.mark.parametrize("address", ["localhost:1", "127.9.9.9:0", "[::1]:7431"])
def test_loopback_needs_none(address: str) -> None:
    """This machine alone: nothing to confirm, and the address reads back as it was typed."""
    assert str(parse(["--data", "here", "--grpc", address]).grpc) == address


def test_an_ipv6_address_stands_in_brackets() -> None:
    """As one types it."""
    assert str(Address("::1", 80)) == "[::1]:80"


def test_a_folder_must_be_named() -> None:
    """Without --data the usage is shown; with an empty one, a sentence."""
    with pytest.raises(SystemExit):
        parse([])
    with pytest.raises(BadConfig, match="--data"):
        parse(["--data", ""])
