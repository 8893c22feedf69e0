"""The SQLite store beyond the contract: its file, its folder, its disk."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from plait_collector.store import (
    Applied,
    Change,
    Conflict,
    Delete,
    Open,
    Opened,
    StoreUnavailable,
    StoreUnusable,
    statements,
)
from plait_collector.store.connection import SHAPE
from plait_collector.store.sqlite import FILE, SqliteStore
from plaitwire import records as r
from tests.contract.store_contract import HEAD, ONE, bytes_of
from tests.support.changes import append_of, meta_of, row_at, session_id


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    """An empty store in tmp_path/data."""
    store = await SqliteStore.open(tmp_path / "data")
    yield store
    await store.close()


async def pragma(store: SqliteStore, what: str) -> Any:
    """What a pragma answers on the connection that writes."""
    return await store._on_thread(store._writing.pragma, what)


def noise(size: int) -> bytes:
    """A record of a kind nobody reads, about size bytes long."""
    return r.pack_record(r.Kind.CONSOLE, os.urandom(size))


async def test_what_is_committed_is_there_after_reopening(tmp_path: Path) -> None:
    """Streams, their state and the store's identity outlive the store."""
    store = await SqliteStore.open(tmp_path)
    append = append_of(ONE, 0, HEAD)
    *_, seen = await store.commit([Open(meta_of()), append, Open(meta_of())])
    await store.close()
    again = await SqliteStore.open(tmp_path)
    try:
        assert again.store_id == store.store_id
        assert await again.commit([Open(meta_of())]) == [seen]
        assert await bytes_of(again, ONE) == HEAD
    finally:
        await again.close()


async def test_identities_differ(tmp_path: Path) -> None:
    """Two stores are two: an offset acknowledged by one says nothing about the other."""
    ids = set()
    for name in "ab":
        store = await SqliteStore.open(tmp_path / name)
        ids.add(store.store_id)
        await store.close()
    assert len(ids) == 2


async def test_a_folder_has_one_collector(store: SqliteStore, tmp_path: Path) -> None:
    """A second store in the same folder is refused, and says who is there."""
    with pytest.raises(
        StoreUnusable, match=rf"in use by another collector \(process {os.getpid()}\)"
    ):
        await SqliteStore.open(tmp_path / "data")
    await store.close()
    await (await SqliteStore.open(tmp_path / "data")).close()


async def test_a_newer_file_is_refused(tmp_path: Path) -> None:
    """A file of a newer version is left alone, in words that say what to do."""
    await (await SqliteStore.open(tmp_path)).close()
    connection = sqlite3.connect(tmp_path / FILE)
    connection.execute(f"PRAGMA user_version = {SHAPE + 1}")
    connection.close()
    before = (tmp_path / FILE).read_bytes()
    with pytest.raises(StoreUnusable, match="newer version"):
        await SqliteStore.open(tmp_path)
    assert (tmp_path / FILE).read_bytes() == before


async def test_a_file_that_is_no_store_is_refused(tmp_path: Path) -> None:
    """Neither noise nor another program's database is written to."""
    (tmp_path / FILE).write_bytes(b"no database at all, " * 500)
    with pytest.raises(StoreUnusable, match="not a database"):
        await SqliteStore.open(tmp_path)
    (tmp_path / FILE).unlink()
    connection = sqlite3.connect(tmp_path / FILE)
    connection.execute("CREATE TABLE theirs (x)")
    connection.close()
    with pytest.raises(StoreUnusable, match="not a collector's"):
        await SqliteStore.open(tmp_path)


async def test_a_folder_that_is_none_is_refused(tmp_path: Path) -> None:
    """A file in the place of the folder is named."""
    (tmp_path / "data").write_text("")
    with pytest.raises(StoreUnusable, match="data is no folder"):
        await SqliteStore.open(tmp_path / "data")


async def test_a_network_file_system_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A write-ahead log needs memory shared by its users: no network file system gives that."""
    monkeypatch.setattr("plait_collector.store.folder.filesystem_type", lambda path: "nfs4")
    with pytest.raises(StoreUnusable, match=r"network file system \(nfs4\)"):
        await SqliteStore.open(tmp_path)


async def test_commits_are_synced(store: SqliteStore) -> None:
    """The file has a write-ahead log, is synced at commit, and can give space back."""
    assert await pragma(store, "journal_mode") == "wal"
    assert await pragma(store, "synchronous") == 2
    assert await pragma(store, "auto_vacuum") == 2


async def test_a_cancelled_commit_ends_before_its_caller_knows(store: SqliteStore) -> None:
    """All of it is there or nothing is, and the next commit is a transaction of its own."""
    big = append_of(ONE, 0, noise(200_000))
    for moment in range(12):
        session = session_id(moment)
        changes: list[Change] = [Open(meta_of(moment)), append_of(session, 0, big.payload)]
        task = asyncio.get_running_loop().create_task(store.commit(changes))
        for _ in range(moment):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        (outcome,) = await store.commit([append_of(session, 0, big.payload)])
        begun = moment > 0
        assert outcome == Conflict(len(big.payload) if begun else 0)


async def test_an_error_within_a_commit_undoes_it_all(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing of a failed commit stays, and the same changes go through afterwards."""
    changes: list[Change] = [Open(meta_of()), append_of(ONE, 0, HEAD)]
    with monkeypatch.context() as broken:
        broken.setattr(statements, "INSERT_RECORD", statements.Insert("nowhere", 9))
        with pytest.raises(StoreUnavailable, match="nowhere"):
            await store.commit(changes)
    assert await store.run_names() == []
    assert [type(one) for one in await store.commit(changes)] == [Opened, Applied]


async def test_a_full_file_is_unavailable_and_recovers(store: SqliteStore) -> None:
    """No room: nothing is changed. Room again: the same commit goes through."""
    await store.commit([Open(meta_of()), append_of(ONE, 0, HEAD)])
    pages = await pragma(store, "page_count")
    await pragma(store, f"max_page_count = {pages + 2}")
    more: list[Change] = [append_of(ONE, len(HEAD), noise(200_000)), Open(meta_of(2))]
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match="full"):
            await store.commit(more)
    assert await bytes_of(store, ONE) == HEAD
    await pragma(store, "max_page_count = 4294967294")
    assert [type(one) for one in await store.commit(more)] == [Applied, Opened]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MiB; only root can have one."""
    path = tmp_path / "small"
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(path)]
    if os.getuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("only root can mount a file system")
    yield path
    subprocess.run(["umount", str(path)], check=True)


async def test_a_full_disk_is_unavailable_and_recovers(small_disk: Path) -> None:
    """Commits fail whole while the disk is full, and go on once somebody has made room."""
    store = await SqliteStore.open(small_disk / "data")
    try:
        await store.commit([Open(meta_of())])
        ballast = small_disk / "ballast"
        ballast.write_bytes(bytes(1024 * 1024))
        offset, full = 0, False
        while not full:
            append = append_of(ONE, offset, noise(100_000))
            try:
                await store.commit([append])
            except StoreUnavailable:
                full = True
            else:
                offset = append.end
        assert len(await bytes_of(store, ONE)) == offset
        ballast.unlink()
        assert await store.commit([append]) == [Applied()]
        assert len(await bytes_of(store, ONE)) == append.end
    finally:
        await store.close()


async def test_a_deleted_run_gives_its_space_back(store: SqliteStore, tmp_path: Path) -> None:
    """The file is small again after a large run was deleted and the log was folded back."""
    await store.commit([Open(meta_of())])
    offset = 0
    for _ in range(30):
        append = append_of(ONE, offset, noise(250_000))
        await store.commit([append])
        offset = append.end
    await store.commit([Delete("digits", "one")])
    await store.close()
    assert (tmp_path / "data" / FILE).stat().st_size < 500_000


async def test_a_killed_collector_loses_nothing_it_committed(tmp_path: Path) -> None:
    """What commit() returned for is there although the process got no chance to close."""
    program = (
        "import asyncio, os, pathlib, sys\n"
        "from plait_collector.store.sqlite import SqliteStore\n"
        "from plait_collector.store import Open\n"
        "from tests.support.changes import append_of, meta_of, row_at, session_id\n"
        "async def main():\n"
        "    store = await SqliteStore.open(pathlib.Path(sys.argv[1]))\n"
        "    await store.commit([Open(meta_of()), append_of(session_id(1), 0, row_at(0))])\n"
        "    os.kill(os.getpid(), 9)\n"
        "asyncio.run(main())\n"
    )
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", program, str(tmp_path)]
    killed = await asyncio.create_subprocess_exec(*command, cwd=root)
    assert await killed.wait() == -9
    store = await SqliteStore.open(tmp_path)
    try:
        assert await bytes_of(store, ONE) == row_at(0)
    finally:
        await store.close()


async def test_reads_cannot_write(store: SqliteStore) -> None:
    """The connection that answers readers refuses to change anything."""
    with pytest.raises(StoreUnavailable, match="readonly"):
        await store._rows("DELETE FROM stream")
