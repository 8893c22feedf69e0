"""What may be asked: limits on requests, checked before anything is read.

Every function gives the request's meaning as plain values, or raises Refused with a sentence that
says which field is wrong and what is allowed.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Sequence
from typing import Final

from plait_collector.states import State
from plaitwire.names import identifier_flaw, key_flaw
from plaitwire.records import JSON_KINDS, Kind
from plaitwire.status import Refused
from plaitwire.v1 import query_pb2

KEYS_MAX: Final = 10_000
"""Keys, or labels, that one request may name."""
PAGE_SIZE: Final = 100
PAGE_SIZE_MAX: Final = 1000
TOKEN_CHARACTERS_MAX: Final = 2048
DEFAULT_KINDS: Final = (int(Kind.EVENT), int(Kind.ALERT))
STATES: Final = tuple(state.value for state in State)

_KINDS: Final = {kind.word: int(kind) for kind in Kind if kind in JSON_KINDS}


def name(what: str, value: str) -> str:
    """An identifier that must be there."""
    if flaw := identifier_flaw(what, value):
        raise Refused(flaw)
    return value


def name_or_none(what: str, value: str) -> str | None:
    """An identifier; None where the field is empty."""
    return name(what, value) if value else None


def label_names(labels: Sequence[str]) -> list[str] | None:
    """Labels, each once; None where none is named: all."""
    return [name("label", label) for label in _few("labels", labels)] or None


def key_names(keys: Sequence[str]) -> list[str] | None:
    """Keys, each once; None where none is named: all."""
    for key in _few("keys", keys):
        if flaw := key_flaw(key):
            raise Refused(flaw)
    return _few("keys", keys) or None


def _few(what: str, values: Sequence[str]) -> list[str]:
    if len(values) > KEYS_MAX:
        raise Refused(f"{len(values)} {what}; at most {KEYS_MAX} are allowed")
    return list(dict.fromkeys(values))


def state(value: str) -> str | None:
    """A state's word; None where the field is empty."""
    if value and value not in STATES:
        raise Refused(f"state {value!r} is none of {', '.join(STATES)}")
    return value or None


def page_size(value: int) -> int:
    """Runs of a page."""
    if value > PAGE_SIZE_MAX:
        raise Refused(f"page_size is {value}; at most {PAGE_SIZE_MAX} are allowed")
    return value or PAGE_SIZE


def kinds(words: Iterable[str]) -> list[int]:
    """Record kinds by their words, each once."""
    chosen = list(dict.fromkeys(words))
    if unknown := [word for word in chosen if word not in _KINDS]:
        raise Refused(f"kind {unknown[0]!r} is none of {', '.join(_KINDS)}")
    return [_KINDS[word] for word in chosen] or list(DEFAULT_KINDS)


def steps(request: query_pb2.HistoryRequest) -> tuple[int | None, int | None]:
    """The smallest and the largest step asked for."""
    least = request.min_step if request.HasField("min_step") else None
    largest = request.max_step if request.HasField("max_step") else None
    if least is not None and largest is not None and least > largest:
        raise Refused(f"min_step {least} is larger than max_step {largest}")
    return least, largest


def attempts(mode: int) -> int:
    """The attempts asked for; effective where nothing is said."""
    if mode not in query_pb2.AttemptsMode.values():
        raise Refused(f"attempts {mode} is no AttemptsMode")
    return mode or query_pb2.ATTEMPTS_MODE_EFFECTIVE


def page_token(at: int, project: str, run: str) -> str:
    """Says that a page ended with this run, then at this place of the list."""
    return base64.urlsafe_b64encode(json.dumps([at, project, run]).encode()).decode()


def page_start(token: str, names: Sequence[tuple[str, str]]) -> int:
    """Where in a list of runs the page after token's begins.

    A run that the token names and that is gone since is looked for where it was.
    """
    if not token:
        return 0
    try:
        if len(token) > TOKEN_CHARACTERS_MAX:
            raise ValueError
        at, project, run = json.loads(base64.b64decode(token, altchars=b"-_", validate=True))
        if not isinstance(at, int) or at < 0:
            raise ValueError
        last = (str(project), str(run))
    except (ValueError, TypeError, RecursionError):
        raise Refused("page_token is not one that an answer gave") from None
    return names.index(last) + 1 if last in names else min(at, len(names))
