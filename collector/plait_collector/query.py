"""The gRPC query service: requests to answers. It reads what is committed and changes nothing.

Rule: what records say and what time adds are computed apart, and stand in fields of their own.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import grpc

from plait_collector import questions
from plait_collector.attempts import LabelOrder, order_run
from plait_collector.history import Table, Written, blocks, effective_table, raw_table
from plait_collector.liveness import Heard, Liveness, RunLiveness, run_liveness
from plait_collector.merge import run_group, run_last_step, run_started_ns
from plait_collector.run_reader import ReaderStatistics, RunReader
from plait_collector.states import primary_of, run_state
from plait_collector.store import Store, StoreError
from plaitwire.status import NotFound, Unavailable, WireError, code_for
from plaitwire.v1 import query_pb2, query_pb2_grpc

RUNS_LOOKED_AT_MAX: Final = 2000
"""Runs that one page looks at: a page may be short, and still not the last."""
HISTORIES_MAX: Final = 16
"""Histories that are answered at once: each may hold a label in memory."""
LABELS_NAMED_MAX: Final = 8
"""Labels that a message about an unknown one names."""

Context = grpc.aio.ServicerContext[Any, Any]


class QueryService(query_pb2_grpc.QueryServicer):
    """plaitwire.v1.Query over a store."""

    def __init__(self, store: Store, heard: Heard, clock_ns: Callable[[], int]) -> None:
        """
        Args:
            store: where runs are read from.
            heard: who was heard when.
            clock_ns: the collector's clock, nanoseconds since 1970.
        """
        self._store = store
        self._heard = heard
        self._clock_ns = clock_ns
        self._reader = RunReader(store)
        self._histories = 0

    def statistics(self) -> ReaderStatistics:
        """What reading has come across so far."""
        return self._reader.statistics()

    async def ListRuns(
        self, request: query_pb2.ListRunsRequest, context: Context
    ) -> query_pb2.ListRunsResponse:
        """A page of runs, newest first."""
        async with _answering(context):
            return await self._list_runs(request)

    async def GetRun(self, request: query_pb2.GetRunRequest, context: Context) -> query_pb2.Run:
        """All of a run but its rows."""
        async with _answering(context):
            project, run = _run_of(request)
            labels = await self._reader.labels(project, run)
            view = await self._reader.view(project, run, labels)
            now_ns = self._clock_ns()
            liveness = run_liveness(self._heard, labels, now_ns)
            return query_pb2.Run(view=view, liveness=_liveness_view(liveness, now_ns))

    async def History(
        self, request: query_pb2.HistoryRequest, context: Context
    ) -> AsyncIterator[query_pb2.HistoryBlock]:
        """Rows as columns, label by label."""
        async with _answering(context):
            keys = questions.key_names(request.keys)
            least, largest = questions.steps(request)
            mode = questions.attempts(request.attempts)
            if self._histories >= HISTORIES_MAX:
                raise Unavailable(f"{HISTORIES_MAX} histories are being answered; try again later")
            self._histories += 1
            try:
                for order in await self._chosen(request):
                    written = await self._reader.written(order, keys)
                    table = await asyncio.to_thread(
                        _table, written, order, mode, keys is None, least, largest
                    )
                    answer = blocks(order.label, table)
                    while (block := await asyncio.to_thread(_next, answer)) is not None:
                        yield block
            finally:
                self._histories -= 1

    async def Events(
        self, request: query_pb2.EventsRequest, context: Context
    ) -> AsyncIterator[query_pb2.Event]:
        """Records that are no rows, label by label."""
        async with _answering(context):
            kinds = questions.kinds(request.kinds)
            for order in await self._chosen(request):
                async for event in self._reader.events(order, kinds):
                    yield event

    async def _list_runs(self, request: query_pb2.ListRunsRequest) -> query_pb2.ListRunsResponse:
        size = questions.page_size(request.page_size)
        state = questions.state(request.state)
        names = await self._store.run_names(
            project=questions.name_or_none("project", request.project),
            group=questions.name_or_none("group", request.group),
        )
        start = questions.page_start(request.page_token, names)
        answer = query_pb2.ListRunsResponse()
        for at, (project, run) in enumerate(names[start : start + RUNS_LOOKED_AT_MAX], start + 1):
            labels = order_run(await self._store.streams(project, run))
            if labels and state in (None, run_state(labels, primary_of(labels)).value):
                answer.runs.append(self._brief(project, run, labels))
            full = len(answer.runs) >= size or at == start + RUNS_LOOKED_AT_MAX
            if full and at < len(names):
                answer.next_page_token = questions.page_token(at, project, run)
            if full:
                break
        return answer

    def _brief(self, project: str, run: str, labels: Sequence[LabelOrder]) -> query_pb2.RunBrief:
        primary = primary_of(labels)
        liveness = run_liveness(self._heard, labels, self._clock_ns())
        alive = (Liveness.LIVE, Liveness.SILENT)
        return query_pb2.RunBrief(
            project=project,
            run=run,
            group=run_group(labels, primary),
            state=run_state(labels, primary),
            liveness=liveness.state,
            labels=len(labels),
            labels_alive=sum(label.state in alive for label in liveness.labels),
            started_ns=run_started_ns(labels),
            last_step=run_last_step(labels),
            rows=sum(place.row.rows for order in labels for place in order.places),
        )

    async def _chosen(
        self, request: query_pb2.HistoryRequest | query_pb2.EventsRequest
    ) -> list[LabelOrder]:
        """The labels that a request names, in natural order."""
        project, run = _run_of(request)
        wanted = questions.label_names(request.labels)
        labels = await self._reader.labels(project, run)
        if wanted is None:
            return list(labels)
        known = [order.label for order in labels]
        if missing := [label for label in wanted if label not in known]:
            more = ", …" if len(known) > LABELS_NAMED_MAX else ""
            has = ", ".join(known[:LABELS_NAMED_MAX]) + more
            raise NotFound(f"run {project}/{run} has no label {missing[0]!r}; it has {has}")
        return [order for order in labels if order.label in wanted]


@asynccontextmanager
async def _answering(context: Context) -> AsyncIterator[None]:
    """What goes wrong becomes the status that says it."""
    try:
        yield
    except WireError as error:
        await context.abort(code_for(error), str(error))
    except StoreError as error:
        await context.abort(code_for(Unavailable()), f"the collector's store: {error}")


def _run_of(
    request: query_pb2.GetRunRequest | query_pb2.HistoryRequest | query_pb2.EventsRequest,
) -> tuple[str, str]:
    return questions.name("project", request.project), questions.name("run", request.run)


def _table(
    written: Written,
    order: LabelOrder,
    mode: int,
    all_rows: bool,
    least: int | None,
    largest: int | None,
) -> Table:
    if mode == query_pb2.ATTEMPTS_MODE_RAW:
        return raw_table(written, all_rows=all_rows, min_step=least, max_step=largest)
    only = order.attempts[-1].number if mode == query_pb2.ATTEMPTS_MODE_LATEST else None
    return effective_table(written, latest=only, min_step=least, max_step=largest)


def _next(answer: Iterator[query_pb2.HistoryBlock]) -> query_pb2.HistoryBlock | None:
    """The next block; StopIteration could not leave a thread."""
    return next(answer, None)


def _liveness_view(liveness: RunLiveness, now_ns: int) -> query_pb2.RunLiveness:
    return query_pb2.RunLiveness(
        state=liveness.state,
        labels=[
            query_pb2.LabelLiveness(
                label=label.label,
                state=label.state,
                heard_ns=label.heard_ns,
                lag_bytes=label.lag_bytes,
                node=label.node,
            )
            for label in liveness.labels
        ],
        now_ns=now_ns,
    )
