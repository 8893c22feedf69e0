"""How the programs log: a line a record, `ts=… level=info msg="what happened" key=value`.

A message is a phrase, optionally followed by `: key=value …`; the line keeps both apart.
"""

from __future__ import annotations

import logging
import time
from typing import TextIO


class KeyValueFormatter(logging.Formatter):
    """One line a record, whatever is in it."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        phrase, _, pairs = record.getMessage().partition(": ")
        if pairs and "=" not in pairs.split(" ", 1)[0]:
            phrase, pairs = record.getMessage(), ""
        line = f"ts={seconds}.{int(record.msecs):03d}Z level={record.levelname.lower()}"
        line += f" msg={phrase if phrase.isidentifier() else _quoted(phrase)}"
        line += f" {_one_line(pairs)}" if pairs else ""
        if record.exc_info:
            line += f" error={_quoted(self.formatException(record.exc_info))}"
        return line


def _quoted(text: str) -> str:
    return '"' + _one_line(text).replace('"', "'") + '"'


def _one_line(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")


def set_up(level: str, stream: TextIO) -> None:
    """Log to stream, from level on.

    Args:
        level: debug, info, warning or error.
        stream: normally stderr.
    """
    handler = logging.StreamHandler(stream)
    handler.setFormatter(KeyValueFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
