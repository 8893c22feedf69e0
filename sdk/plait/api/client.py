"""`plait.Api`: where reading begins."""

from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType
from typing import Final

from plait.api.channel import Channel
from plait.api.run import Run
from plaitwire.v1 import query_pb2

TIMEOUT_S: Final = 60.0
PAGE_SIZE: Final = 100


class Api:
    """Reads runs from a collector. Threads may share it; close it, or use it in a with block.

    Nothing is asked before the first question, so making one never fails for a collector that is
    not there.
    """

    def __init__(self, address: str | None = None, *, timeout_s: float = TIMEOUT_S) -> None:
        """
        Args:
            address: the collector's HOST:PORT; None: PLAIT_COLLECTOR, else 127.0.0.1:7431.
            timeout_s: how long one answer may take, in seconds.

        Raises:
            ValueError: the address is no HOST:PORT.
        """
        self._channel = Channel(address, timeout_s)

    def __repr__(self) -> str:
        return f"plait.Api({self.address!r})"

    def __enter__(self) -> Api:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def address(self) -> str:
        """The collector's HOST:PORT."""
        return self._channel.address

    def run(self, path: str) -> Run:
        """One run.

        Args:
            path: "project/id".

        Raises:
            ValueError: path is no "project/id".
            NotFound: there is no such run.
            WireError: it could not be asked for.
        """
        project, slash, run = path.partition("/")
        if not slash or not project or not run:
            raise ValueError(f"{path!r} names no run; it takes PROJECT/RUN, like 'digits/exp-7'")
        return Run(self._channel, project, run).refresh()

    def runs(
        self, project: str | None = None, group: str | None = None, state: str | None = None
    ) -> Iterator[Run]:
        """Runs, newest first; more are asked for as you go on.

        Args:
            project: of this project alone.
            group: of this group alone.
            state: only running, finished, failed or crashed ones.

        Raises:
            Refused: a name or the state is not allowed.
            WireError: they could not be asked for.
        """
        token = ""
        while True:
            request = query_pb2.ListRunsRequest(
                project=project or "",
                group=group or "",
                state=state or "",
                page_size=PAGE_SIZE,
                page_token=token,
            )
            page = self._channel.ask(self._channel.query.ListRuns, request)
            for brief in page.runs:
                yield Run(self._channel, brief.project, brief.run, brief)
            token = page.next_page_token
            if not token:
                return

    def close(self) -> None:
        """End the connection. Safe to call twice."""
        self._channel.close()
