"""Which names are allowed, for both ends.

Projects, runs, labels, groups and nodes are *identifiers*: 1 to 128 characters, none of them a
control character, `/`, `,` or `:`. Keys of rows, config and summary are 1 to 1,024 characters, any.
Standard library only: a rank imports this.
"""

from __future__ import annotations

import re

from plaitwire.limits import KEY_CHARACTERS_MAX, LABEL_CHARACTERS_MAX

# Control characters (C0, DEL, C1), the three separators, and halves of surrogate pairs, which no
# UTF-8 can hold.
_FORBIDDEN = re.compile("[\x00-\x1f\x7f-\x9f/,:\ud800-\udfff]")
_SURROGATE = re.compile("[\ud800-\udfff]")
_SESSION = re.compile("[0-9a-f]{32}")


def identifier_flaw(what: str, name: str) -> str | None:
    """Why name cannot be a project, run, label, group or node; None if it can.

    Args:
        what: the argument's name, for the sentence.
        name: the candidate.
    """
    if not name:
        return f"{what} is empty; it needs 1 to {LABEL_CHARACTERS_MAX} characters"
    if len(name) > LABEL_CHARACTERS_MAX:
        return f"{what} has {len(name)} characters; at most {LABEL_CHARACTERS_MAX} are allowed"
    if found := _FORBIDDEN.search(name):
        return (
            f"{what} {name!r} holds {found.group()!r}; control characters and the "
            f"characters / , : are not allowed"
        )
    return None


def key_flaw(key: str) -> str | None:
    """Why key cannot name a value of a row, config or summary; None if it can."""
    if not key:
        return f"a key is empty; it needs 1 to {KEY_CHARACTERS_MAX} characters"
    if len(key) > KEY_CHARACTERS_MAX:
        return (
            f"the key {key[:40]!r}… has {len(key)} characters; "
            f"at most {KEY_CHARACTERS_MAX} are allowed"
        )
    if _SURROGATE.search(key):
        return f"the key {key!r} holds half of a surrogate pair, which no text can"
    return None


def is_session(text: str) -> bool:
    """Whether text can be a session's id: 32 lower-case hexadecimal digits."""
    return _SESSION.fullmatch(text) is not None
