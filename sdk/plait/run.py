"""Run: what a user holds. init() opens it, log() writes rows, finish() ends it.

init() raises where an argument is wrong or no folder can be used. After it, nothing here raises
into training for what is wrong with the machine or with a value: it is said once, and counted.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from plait.delivery import Delivery
    from plait.settings import Settings

METRIC_SUMMARIES: Final = ("min", "max", "mean", "first", "last", "none")


class Run:
    """One writer's part of a run: its rows, its config, its summary, its end.

    Threads may share it. A child of fork that logs writes a session of its own, which is a branch
    of this one.
    """

    def __init__(
        self, settings: Settings, config: object, environ: Mapping[str, str] = os.environ
    ) -> None:
        """Open the run's record log. Users call init().

        Args:
            settings: gathered.
            config: the first values of the config; a mapping, or None.
            environ: the process's environment.

        Raises:
            UnusableFolder: there is nowhere to write.
        """
        # Not before they are needed: `import plait` is quick, and works where logs cannot be
        # written.
        from plait import control, exits
        from plait.config import Config, Summary
        from plait.identity import Meta
        from plait.values import say
        from plait.writer import Writer
        from plaitwire.folders import make_private, resolve
        from plaitwire.records import Kind

        self._settings = settings
        self._exits = exits.EXITS
        self._kinds = Kind
        self._finished = False
        folders = resolve(environ, os.geteuid())
        if settings.directory is not None:  # Better now than when training is over.
            make_private(settings.directory, os.geteuid(), "dir=")
        meta = Meta.of_this_process(
            kind="run",
            project=settings.project,
            run=settings.run,
            label=settings.label,
            primary=settings.primary,
            group=settings.group,
            environ=environ,
        )
        first: list[dict[str, Any]] = []
        self.config = Config(first.append)
        if config is not None:
            self.config.update(config)  # What is wrong with it is said before a run is there.
        self._writer = Writer(folders, meta, on_branch=self._branched)
        for changes in first:
            self._writer.record(Kind.CONFIG, changes)
        self.config.write_with(lambda changes: self._writer.record(Kind.CONFIG, changes))
        self.summary = Summary(lambda changes: self._writer.record(Kind.SUMMARY, changes))
        self._exits.add(self)
        opened = control.open_stream(
            folders, meta.session, self._writer.lock_identity(), settings.collector
        )
        speaks = environ.get("LOCAL_RANK", environ.get("SLURM_LOCALID", "0")) == "0"
        for notice in (*settings.notices, *folders.notices, *opened.notices):
            if speaks:
                say(notice)
        if not opened.is_accepted and speaks:
            say(_offline(self, opened.error))

    @property
    def id(self) -> str:
        """The run's id, unique in its project."""
        return self._settings.run

    @property
    def project(self) -> str:
        """The project the run is in."""
        return self._settings.project

    @property
    def label(self) -> str:
        """This writer's name within the run."""
        return self._settings.label

    @property
    def session(self) -> str:
        """The id of what this process writes: one life of one writer."""
        return self._writer.meta.session

    @property
    def step(self) -> int | None:
        """The last step logged by this session; None before the first."""
        return self._writer.last_step

    def log(self, data: Mapping[str, Any], step: int | None = None) -> None:
        """Record values of this moment. About a microsecond; never waits, never raises for a value.

        Numbers, and what converts to one (0-d tensors, NumPy scalars), become a row; other values
        an event. Nested dicts are flattened with "/".

        Args:
            data: key to value.
            step: of the row; None counts up from the last one, from 0.
        """
        self._writer.log(data, step)

    def define_metric(self, key: str, summary: str) -> None:
        """Say how a key is summarised.

        Args:
            key: as it is logged.
            summary: min, max, mean, first, last or none.

        Raises:
            ValueError: the key, or the summary, is none.
        """
        from plaitwire.names import key_flaw

        if not isinstance(key, str):
            raise TypeError(f"a key is text, not {key!r}")
        if (flaw := key_flaw(key)) is not None:
            raise ValueError(flaw)
        if summary not in METRIC_SUMMARIES:
            raise ValueError(f"summary is {summary!r}, and must be one of {METRIC_SUMMARIES}")
        self._writer.record(self._kinds.DEFINE_METRIC, {"key": key, "summary": summary})

    def finish(self, exit_code: int | None = None, timeout: float | None = None) -> None:
        """End the run and wait, within a bound, until it is delivered. Safe twice.

        What is not delivered by then stays with the agent, or, where none is there, on disk; one
        line says so.

        Args:
            exit_code: 0, the default, is finished; any other failed.
            timeout: the bound, in seconds; limits.FINISH_TIMEOUT_S by default.
        """
        from plait.delivery import deliver
        from plait.values import say
        from plaitwire.limits import FINISH_TIMEOUT_S

        bound_s = FINISH_TIMEOUT_S if timeout is None else max(0.0, float(timeout))
        if self._finished:
            return
        self._finished = True
        self._exits.discard(self)
        if self._writer.is_forked:  # A child that logged nothing has nothing to end.
            self._writer.close()
            return
        code = _checked_code(exit_code)
        self._writer.finish(code, "failed" if code else "finished")
        if flaws := _counted(self._writer.flaws.counts):
            say(f"{self._named()}: in all, log() could not record what it was given: {flaws}")
        try:
            done = deliver(
                self._writer,
                collector=self._settings.collector,
                directory=self._settings.directory,
                timeout_s=bound_s,
            )
        except OSError as error:
            hot = self._writer.folders.hot_stream(self.session)
            say(f"{self._named()} could not be moved to disk and stays in {hot}: {error}")
            return
        self._say_what_is_left(done)

    def _say_what_is_left(self, done: Delivery) -> None:
        from plait.values import say

        if done.is_delivered:
            return
        if done.refused:
            say(
                f"{self._named()}: {done.bytes_left} bytes will not be delivered, the collector "
                f"refuses them for good: {done.refused}. The agent keeps them under refused/"
            )
        elif done.where is None:
            say(f"{self._named()}: {done.bytes_left} bytes are left to the agent to deliver")
        else:
            say(
                f"{self._named()}: {done.bytes_left} bytes are in {done.where}; "
                f"deliver them with `{_agent_command(self._settings)}` on this node"
            )

    def __enter__(self) -> Run:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        from plait.exits import code_of

        self.finish(code_of(error))

    def __repr__(self) -> str:
        return f"<Run {self._named()}>"

    def progress_mark(self) -> int:
        """The log's end, in bytes: it grows when anything is recorded."""
        return self._writer.end

    def _named(self) -> str:
        return f"{self.project}/{self.id} label {self.label}"

    def _branched(self) -> None:
        """A forked child of this process has begun to log: it ends on its own."""
        self._exits.add_in_child(self)


def init(
    project: str | None = None,
    *,
    id: str | None = None,
    label: str | int | None = None,
    primary: bool | None = None,
    config: object = None,
    group: str | None = None,
    dir: str | os.PathLike[str] | None = None,
) -> Run:
    """Open a run, or join one: all processes that give the same project and id write one run.

    Args:
        project: what the run belongs to; PLAIT_PROJECT, else "default".
        id: the run's id; PLAIT_RUN_ID, the Slurm job and step, else a new one.
        label: this writer's name within the run; the launcher's rank, else "0".
        primary: this label speaks for the run. By default label "0" does.
        config: the first values of run.config; a mapping, a Namespace or a dataclass.
        group: a name that several runs share.
        dir: where the run is put when it ends and no agent is there; PLAIT_DIR by default.

    Raises:
        ValueError, TypeError: an argument is wrong; the sentence says which, and why.
        plaitwire.folders.UnusableFolder: there is nowhere to write.
        RuntimeError: this is no Linux.
    """
    if sys.platform != "linux":
        raise RuntimeError(
            "plait writes runs on Linux only; here it can read them: plait.Api, pip install "
            "'plait[query]'"
        )
    from plait.settings import Settings

    settings = Settings.gather(
        os.environ,
        project=project,
        run=id,
        label=label,
        primary=primary,
        group=group,
        directory=dir,
    )
    return Run(settings, config)


def _checked_code(exit_code: int | None) -> int:
    if exit_code is None:
        return 0
    try:
        return int(exit_code)
    except (TypeError, ValueError):
        return 1


def _counted(flaws: Mapping[str, int]) -> str:
    """What was said once and happened again; nothing where all was said."""
    if max(flaws.values(), default=0) < 2:
        return ""
    return ", ".join(f"{kind} {count} times" for kind, count in sorted(flaws.items()))


def _agent_command(settings: Settings) -> str:
    from plait.settings import DEFAULT_COLLECTOR

    collector = settings.collector or DEFAULT_COLLECTOR
    is_here = collector.startswith(("127.", "localhost:", "[::1]:"))
    return f"plait agent --collector {collector}{'' if is_here else ' --insecure'}"


def _offline(run: Run, error: str) -> str:
    settings = run._settings
    why = (
        f"the agent here does not take this run ({error})" if error else "no agent is on this node"
    )
    return (
        f"{why}: {settings.project}/{settings.run} is recorded offline. Deliver it, now or later, "
        f"with `{_agent_command(settings)}` on this node"
    )
