"""Bad input to programs that serve: told to whom it belongs, counted, and nothing else is harmed.

A bystander, a rank of its own with the node's agent, logs on through every test, and is whole at
the end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import grpc
import pytest
import zstandard

import plait
from plaitwire import limits
from plaitwire.v1 import ingest_pb2 as pb
from tests.system.programs import site
from tests.system.raw_agent import SCHEMA, RawAgent, frame, rows
from tests.system.scene import Scene

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with site() as here:
        scene = Scene(here, tmp_path_factory.mktemp("scene") / "pace")
        try:
            yield scene
            scene.check_whole()
        finally:
            scene.close()


@pytest.fixture(autouse=True)
def a_bystander_logs_on(scene: Scene) -> Iterator[None]:
    """Whatever a test does, another stream goes on."""
    scene.log_on()
    yield
    scene.log_on()


def session(number: int) -> str:
    return f"{number:032x}"


GOOD = SCHEMA + rows(range(20))
BOMB = zstandard.ZstdCompressor(level=19).compress(bytes(64 * limits.MIB))
DAMAGE = GOOD + bytes(8) + rows(range(3))
NO_SIZE = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(64 * limits.MIB))

BAD_FRAMES: dict[str, tuple[dict[str, Any], str]] = {
    "checksum": ({"crc32c": 1}, "checksum"),
    "size 0": ({"size": 0}, "checksum"),
    "shorter than said": ({"size": len(GOOD) + 8}, "checksum"),
    "longer than said": ({"size": len(GOOD) - 8}, "checksum"),
    "larger than a frame": ({"size": limits.FRAME_BYTES_MAX + 8}, "checksum"),
    "unknown encoding": ({"encoding": 7}, "checksum"),
    "no zstd": ({"encoding": pb.ENCODING_ZSTD}, "checksum"),
    "bomb": ({"encoding": pb.ENCODING_ZSTD, "payload": BOMB}, "checksum"),
    "bomb of unknown size": ({"encoding": pb.ENCODING_ZSTD, "payload": NO_SIZE}, "checksum"),
    "beyond the next offset": ({"offset": 4096, "segment_base": 4096}, "out_of_order"),
    "beyond all offsets": ({"offset": 2**64 - 8, "segment_base": 2**64 - 8}, "out_of_order"),
    "segment not there": ({"segment_base": 8}, "invalid"),
}


@pytest.mark.parametrize("name", BAD_FRAMES)
def test_a_bad_frame_ends_its_own_handle(scene: Scene, name: str) -> None:
    """It is refused with its reason and counted; the relay's other stream is acknowledged."""
    change, reason = BAD_FRAMES[name]
    number = 100 + 2 * list(BAD_FRAMES).index(name)
    before = scene.refused().get(reason, 0)

    async def said(agent: RawAgent) -> None:
        await agent.hello()
        for handle in (1, 2):
            await agent.open(handle, session(number + handle))
            await agent.hear("stream_opened")
        await agent.say(frame(1, GOOD, **change))
        refused = await agent.hear("refused")
        assert (refused.handle, bool(refused.message)) == (1, True)
        assert pb.RefusedReason.Name(refused.reason) == f"REFUSED_REASON_{reason.upper()}"
        await agent.say(frame(2, GOOD))
        (entry,) = (await agent.hear("ack")).offsets
        assert (entry.handle, entry.offset) == (2, len(GOOD))

    scene.talk(said)
    assert scene.refused()[reason] == before + 1


def test_damage_within_a_frame_costs_what_follows_it(scene: Scene) -> None:
    """What stands before the bad record is kept and acknowledged, and its place is told."""

    async def said(agent: RawAgent) -> None:
        await agent.hello()
        await agent.open(1, session(200))
        await agent.hear("stream_opened")
        await agent.say(frame(1, DAMAGE))
        refused = await agent.hear("refused")
        assert (refused.reason, refused.retry) == (pb.REFUSED_REASON_DAMAGED, True)
        assert refused.offset == len(GOOD)
        await agent.open(2, session(200), label="1")
        assert (await agent.hear("stream_opened")).next_offset == len(GOOD)

    scene.talk(said)


@pytest.mark.parametrize(
    ("meta", "why"),
    [
        ({"label": ""}, "label is empty"),
        ({"label": "x" * 129}, "129 characters"),
        ({"run": "a/b"}, "not allowed"),
        ({"session": "x" * 9000}, "no session id"),
        ({"kind": 3}, "not taken from agents"),
        ({"extra_json": "[" * 30_000}, "no JSON"),
        ({"extra_json": '"' + "y" * limits.META_BYTES_MAX + '"'}, "bytes"),
    ],
    ids=["empty", "long", "slash", "session", "kind", "deep", "large"],
)
def test_a_bad_meta_is_refused(scene: Scene, meta: dict[str, Any], why: str) -> None:
    """A stream that cannot be is refused for good with a sentence; the relay goes on."""

    async def said(agent: RawAgent) -> None:
        await agent.hello()
        await agent.open(1, **({"session": session(210)} | meta))
        refused = await agent.hear("refused")
        assert (refused.reason, refused.retry) == (pb.REFUSED_REASON_INVALID, False)
        assert why in refused.message
        await agent.open(2, session(211))
        await agent.hear("stream_opened")

    scene.talk(said)


def test_an_absurd_gap_is_refused(scene: Scene) -> None:
    """A gap to where no stream ends is refused, and the collector goes on writing."""

    async def said(agent: RawAgent) -> None:
        await agent.hello()
        await agent.open(1, session(220))
        await agent.hear("stream_opened")
        gap = pb.Gap(handle=1, offset=0, end=2**64 - 8, reason=pb.GAP_REASON_DAMAGED)
        await agent.say(pb.RelayRequest(gap=gap))
        assert (await agent.hear("refused")).reason == pb.REFUSED_REASON_INVALID

    scene.talk(said)


def test_an_absurd_heartbeat_does_not_make_a_run_unreadable(scene: Scene) -> None:
    """An agent may claim any end for its streams: the run is still answered."""

    async def said(agent: RawAgent) -> None:
        await agent.hello()
        for handle in range(1, 9):
            await agent.open(handle, session(230 + handle), label="0", run="boastful")
            await agent.hear("stream_opened")
        ends = [pb.StreamOffset(handle=handle, offset=2**64 - 1) for handle in range(1, 9)]
        await agent.say(pb.RelayRequest(heartbeat=pb.Heartbeat(sent_ns=1, produced=ends)))
        await agent.hear("clock_echo")

        def lag() -> int:
            with plait.Api(scene.here.grpc) as api:
                return api.run("system/boastful").labels["0"].lag_bytes

        assert await asyncio.to_thread(lag) > 2**62

    scene.talk(said)


async def _greet_twice(agent: RawAgent) -> None:
    await agent.hello()
    await agent.hello()


async def _say_no_hello(agent: RawAgent) -> None:
    await agent.open(1, session(240))


async def _use_a_handle_twice(agent: RawAgent) -> None:
    await agent.hello()
    await agent.open(1, session(241))
    await agent.open(1, session(242))


async def _go_beyond_the_credit(agent: RawAgent) -> None:
    await agent.hello()
    await agent.open(1, session(243))
    await agent.hear("stream_opened")
    await agent.say(frame(1, GOOD, size=agent.credit + 8))


async def _speak_another_version(agent: RawAgent) -> None:
    await agent.hello(protocol=limits.PROTOCOL + 1)


@pytest.mark.parametrize(
    ("said", "code", "why"),
    [
        (_greet_twice, grpc.StatusCode.INVALID_ARGUMENT, "one Hello"),
        (_say_no_hello, grpc.StatusCode.INVALID_ARGUMENT, "is Hello"),
        (_use_a_handle_twice, grpc.StatusCode.INVALID_ARGUMENT, "used before"),
        (_go_beyond_the_credit, grpc.StatusCode.INVALID_ARGUMENT, "credit"),
        (_speak_another_version, grpc.StatusCode.FAILED_PRECONDITION, "protocol 2"),
    ],
)
def test_a_relay_that_breaks_the_protocol_is_ended(
    scene: Scene,
    said: Callable[[RawAgent], Awaitable[None]],
    code: grpc.StatusCode,
    why: str,
) -> None:
    """Its call ends with a status that says what was wrong, and that it is the agent's to mend."""

    async def until_the_end(agent: RawAgent) -> None:
        await said(agent)
        ended, details = await agent.end()
        assert (ended, why in details) == (code, True), details

    scene.talk(until_the_end)


def test_bytes_that_are_no_message_end_their_relay_alone(scene: Scene) -> None:
    """Garbage on the wire ends the call that brought it."""

    async def said(agent: RawAgent) -> None:
        await agent.hello()
        assert (await agent.end())[0] is not grpc.StatusCode.OK

    scene.talk(said, serializer=lambda message: b"\xff" * 64)
