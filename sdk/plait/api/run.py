"""A run, as it was last looked at, and the questions one can ask about it."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, Literal

import pyarrow as pa

from plait.api.channel import Channel
from plait.api.tables import to_table
from plait.api.values import (
    Event,
    Frontier,
    Gap,
    Label,
    event_from,
    frontier_from,
    json_object,
    label_from,
)
from plaitwire.v1 import query_pb2

Attempts = Literal["effective", "latest", "raw"]
_MODES: Final[dict[str, query_pb2.AttemptsMode.ValueType]] = {
    "effective": query_pb2.ATTEMPTS_MODE_EFFECTIVE,
    "latest": query_pb2.ATTEMPTS_MODE_LATEST,
    "raw": query_pb2.ATTEMPTS_MODE_RAW,
}


class Run:
    """One run. Its properties are of one look at it; refresh() looks again.

    A run of Api.runs() is looked at in full only when something is asked that its line in the list
    does not tell.
    """

    def __init__(
        self, channel: Channel, project: str, run: str, brief: query_pb2.RunBrief | None = None
    ) -> None:
        """Not for users: Api.run() and Api.runs() make it."""
        self._channel = channel
        self._project = project
        self._run = run
        self._brief = brief
        self._looked: query_pb2.Run | None = None
        self._labels: dict[str, Label] | None = None

    def __repr__(self) -> str:
        return f"<plait run {self._project}/{self._run}: {self.state}, {self.liveness}>"

    @property
    def project(self) -> str:
        """The project it is in."""
        return self._project

    @property
    def id(self) -> str:
        """Its id, unique in its project."""
        return self._run

    @property
    def path(self) -> str:
        """project/id, as Api.run() takes it."""
        return f"{self._project}/{self._run}"

    @property
    def group(self) -> str:
        """A name that several runs share; empty: none."""
        return self._view().group if self._brief is None else self._brief.group

    @property
    def state(self) -> str:
        """running, finished, failed or crashed: what its records say."""
        return self._view().state if self._brief is None else self._brief.state

    @property
    def liveness(self) -> str:
        """live, silent, lost or ended: what time adds."""
        if self._brief is not None:
            return self._brief.liveness
        return self._full().liveness.state

    @property
    def started_ns(self) -> int:
        """When its first session started, by that one's clock: nanoseconds since 1970."""
        return self._view().started_ns if self._brief is None else self._brief.started_ns

    @property
    def rows(self) -> int:
        """Rows of all labels, as they were written."""
        if self._brief is not None:
            return self._brief.rows
        return sum(label.rows for label in self._view().labels)

    @property
    def last_step(self) -> int | None:
        """The largest step of any label; None: no row yet."""
        if self._brief is not None:
            return self._brief.last_step if self._brief.HasField("last_step") else None
        steps = [label.last_step for label in self.labels.values()]
        return max((step for step in steps if step is not None), default=None)

    @property
    def primary(self) -> str | None:
        """The label that speaks for it; None: none does."""
        return self._view().primary or None

    @property
    def keys(self) -> list[str]:
        """The keys of its rows, sorted."""
        return list(self._view().keys)

    @property
    def config(self) -> dict[str, Any]:
        """Its config. Where labels differ the primary's value, else the smallest label's."""
        return json_object(self._view().config_json)

    @property
    def conflicts(self) -> dict[str, dict[str, Any]]:
        """Keys of the config that labels do not agree about: key to label to value."""
        return {
            conflict.key: {
                label: json_object('{"value":' + conflict.values_json[label] + "}")["value"]
                for label in self.labels
                if label in conflict.values_json
            }
            for conflict in self._view().conflicts
        }

    @property
    def summary(self) -> dict[str, Any]:
        """One value for each key."""
        return json_object(self._view().summary_json)

    @property
    def labels(self) -> Mapping[str, Label]:
        """Its writers by name, in natural order."""
        if self._labels is None:
            full = self._full()
            times = {time.label: time for time in full.liveness.labels}
            self._labels = {
                view.label: label_from(view, times.get(view.label, query_pb2.LabelLiveness()))
                for view in full.view.labels
            }
        return self._labels

    @property
    def gaps(self) -> tuple[Gap, ...]:
        """All that was lost, label by label."""
        return tuple(gap for label in self.labels.values() for gap in label.gaps)

    def refresh(self) -> Run:
        """Look again. Gives this run back.

        Raises:
            NotFound: it is gone.
            WireError: it could not be asked for.
        """
        request = query_pb2.GetRunRequest(project=self._project, run=self._run)
        self._looked = self._channel.ask(self._channel.query.GetRun, request)
        self._brief, self._labels = None, None
        return self

    def frontier(self) -> dict[str, Frontier]:
        """Look again, and tell for each label how far it is known.

        Raises:
            WireError: it could not be asked for.
        """
        self.refresh()
        return {name: frontier_from(label) for name, label in self.labels.items()}

    def history(
        self,
        keys: Iterable[str] | None = None,
        labels: Iterable[str | int] | None = None,
        min_step: int | None = None,
        max_step: int | None = None,
        attempts: Attempts = "effective",
    ) -> pa.Table:
        """The run's rows, as they are now.

        Args:
            keys: the columns wanted; None: all.
            labels: whose rows; None: everybody's. A label's rows are in its order; which label
                comes first means nothing.
            min_step: the smallest step.
            max_step: the largest step.
            attempts: "effective": later attempts override earlier ones, per key, from that key's
                first given step on; "latest": the latest attempt alone; "raw": every row that was
                written, with the step it was written with.

        Returns:
            A table of label, attempt, step, time (what the writer's clock said, UTC), and a float64
            column for each key: null where a row lacks it. A key named like one of those four is
            the column `key:step` and so on.

        Raises:
            TypeError, ValueError: an argument is wrong; the sentence says which, and why.
            NotFound: there is no such run or label.
            Refused: a name or bound is not allowed.
            WireError: it could not be asked for.
        """
        wanted = None if keys is None else list(dict.fromkeys(_several(keys)))
        blocks = self.history_blocks(wanted, labels, min_step, max_step, attempts)
        return to_table(blocks, wanted)

    def history_blocks(
        self,
        keys: Iterable[str] | None = None,
        labels: Iterable[str | int] | None = None,
        min_step: int | None = None,
        max_step: int | None = None,
        attempts: Attempts = "effective",
    ) -> Iterator[query_pb2.HistoryBlock]:
        """The same rows as history() gives, as blocks that need no more memory than one of them."""
        if attempts not in _MODES:
            raise ValueError(f"attempts is {attempts!r}; it can be {', '.join(_MODES)}")
        wanted = None if keys is None else _several(keys)
        chosen = None if labels is None else [str(label) for label in _several(labels)]
        if wanted == [] or chosen == []:
            return iter(())
        request = query_pb2.HistoryRequest(
            project=self._project,
            run=self._run,
            keys=wanted,
            labels=chosen,
            min_step=_bound("min_step", min_step),
            max_step=_bound("max_step", max_step),
            attempts=_MODES[attempts],
        )
        return self._channel.stream(self._channel.query.History, request)

    def events(
        self,
        labels: Iterable[str | int] | None = None,
        kinds: Iterable[str] | None = None,
    ) -> Iterator[Event]:
        """Records that are no rows, label by label, each label's in its order.

        Args:
            labels: whose; None: everybody's.
            kinds: which; None: event and alert.

        Raises:
            WireError: it could not be asked for.
        """
        chosen = None if labels is None else [str(label) for label in _several(labels)]
        words = None if kinds is None else _several(kinds)
        if chosen == [] or words == []:
            return iter(())
        request = query_pb2.EventsRequest(
            project=self._project, run=self._run, labels=chosen, kinds=words
        )
        return map(event_from, self._channel.stream(self._channel.query.Events, request))

    def _full(self) -> query_pb2.Run:
        if self._looked is None:
            self.refresh()
        assert self._looked is not None
        return self._looked

    def _view(self) -> query_pb2.RunView:
        return self._full().view


def _bound(name: str, step: object) -> int | None:
    """A bound of the steps, as an integer."""
    if step is None:
        return None
    try:
        number = operator.index(step)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"{name} must be an integer or None, not {step!r:.60}") from None
    if not -(2**63) <= number < 2**63:
        raise ValueError(f"{name} is {number}, and steps are 64-bit integers")
    return number


def _several(values: Iterable[Any]) -> list[Any]:
    """The values; a single text is one of them and not its letters."""
    return [values] if isinstance(values, str) else list(values)
