"""How this process ends, as far as Python tells: for runs that nobody finishes.

A run is finished at the interpreter's exit: as failed after an exception that nobody caught, with
the code of `sys.exit(code)`, else as finished. `raise SystemExit(3)` and `exit(3)` do not pass by
here, and count as finished; os._exit and signals end the process at once, and its agent calls that
crashed. A child of multiprocessing, where atexit does not run, is told by its own finalizers.
"""

from __future__ import annotations

import atexit
import sys
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any, Final, Protocol

INTERRUPTED: Final = 130
"""The exit code of a process that Ctrl-C ended, as shells tell it."""


class Finishing(Protocol):
    """A run, as far as its end goes."""

    def progress_mark(self) -> int:
        """A number that grows when anything is recorded."""

    def finish(self, exit_code: int | None = None, timeout: float | None = None) -> None:
        """End the run."""


def code_of(error: BaseException | None) -> int:
    """The exit code of a process, or a block, that ended with error."""
    if error is None:
        return 0
    if isinstance(error, SystemExit):
        return code_of_exit(error.code)
    return INTERRUPTED if isinstance(error, KeyboardInterrupt) else 1


def code_of_exit(code: object) -> int:
    """The exit code that sys.exit(code) leads to: None is 0, a text is 1."""
    if code is None:
        return 0
    return code if isinstance(code, int) else 1


class _Exits:
    """The runs that are open, and what is known of the process's end."""

    def __init__(self) -> None:
        self._strong: dict[int, Finishing] = {}
        self._uncaught: int | None = None
        self._asked: tuple[int, dict[int, int]] | None = None
        self._is_installed = False

    def add(self, run: Finishing) -> None:
        """Finish a run when the process ends."""
        self._strong[id(run)] = run
        if not self._is_installed:
            self._is_installed = True
            atexit.register(self._at_exit)
            self._chain_excepthook()
            self._chain_exit()
        process: Any = sys.modules.get("multiprocessing.process")
        if process is not None and process.parent_process() is not None:
            self.add_in_child(run)

    def add_in_child(self, run: Finishing) -> None:
        """The same where atexit may not run: in a child of multiprocessing."""
        util: Any = sys.modules.get("multiprocessing.util")
        if util is not None:
            util.Finalize(None, self._finish_child, args=(run,), exitpriority=0)

    def discard(self, run: Finishing) -> None:
        """The run is finished."""
        self._strong.pop(id(run), None)

    def _chain_excepthook(self) -> None:
        before = sys.excepthook

        def hook(
            kind: type[BaseException], error: BaseException, trace: TracebackType | None
        ) -> None:
            self._uncaught = code_of(error)
            before(kind, error, trace)

        sys.excepthook = hook

    def _chain_exit(self) -> None:
        before: Callable[[Any], Any] = sys.exit

        def exit(code: Any = None, /) -> Any:
            if threading.current_thread() is threading.main_thread():
                marks = {key: run.progress_mark() for key, run in self._strong.items()}
                self._asked = (code_of_exit(code), marks)
            return before(code)

        sys.exit = exit

    def _code(self, run: Finishing) -> int:
        if self._uncaught is not None:
            return self._uncaught
        if self._asked is not None:
            code, marks = self._asked
            # Who caught the SystemExit and went on logging has not ended by it.
            if marks.get(id(run)) == run.progress_mark():
                return code
        return 0

    def _at_exit(self) -> None:
        for run in list(self._strong.values()):
            run.finish(self._code(run))

    def _finish_child(self, run: Finishing) -> None:
        # multiprocessing calls this while the exception that ends the child is being handled.
        error = sys.exc_info()[1]
        run.finish(code_of(error) if error is not None else self._code(run))


EXITS: Final = _Exits()
