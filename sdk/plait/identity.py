"""Which run, label, launcher, host and process this is: what a stream's meta.json says.

Rule: no secret gets in. Of the environment only the variables named here are taken, and arguments
that look like credentials are blanked.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import time_ns
from typing import Any, Final

from plaitwire.limits import META_BYTES_MAX

LABEL_VARIABLES: Final = ("RANK", "SLURM_PROCID", "OMPI_COMM_WORLD_RANK", "PMI_RANK")
RESTART_VARIABLES: Final = ("TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT")
WORLD_SIZE_VARIABLES: Final = ("WORLD_SIZE", "SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE")
GPU_VARIABLES: Final = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")
LAUNCHER_VARIABLES: Final = (
    *LABEL_VARIABLES, *RESTART_VARIABLES, *WORLD_SIZE_VARIABLES,
    "LOCAL_RANK", "LOCAL_WORLD_SIZE", "NODE_RANK", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT",
    "TORCHELASTIC_MAX_RESTARTS", "TORCHELASTIC_RUN_ID",
    "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID", "SLURM_CLUSTER_NAME", "SLURM_JOB_ID",
    "SLURM_JOB_NAME", "SLURM_JOB_NODELIST", "SLURM_JOB_PARTITION", "SLURM_LOCALID",
    "SLURM_NODEID", "SLURM_STEP_ID",
    "OMPI_COMM_WORLD_LOCAL_RANK", "PMI_LOCAL_RANK",
)  # fmt: skip
ARGUMENTS_CHARACTERS_MAX: Final = 8192
"""Of all arguments; the rest is cut off."""

_SECRET: Final = re.compile(r"(?i)token|secret|passw|api[-_]?key|credential|auth")
# fmt: off
_ADJECTIVES: Final = [
    "amber",
    "brisk",
    "calm",
    "clear",
    "coral",
    "crisp",
    "dusky",
    "early",
    "fair",
    "fleet",
    "fresh",
    "gentle",
    "gilded",
    "golden",
    "green",
    "hardy",
    "keen",
    "light",
    "lively",
    "lucid",
    "mellow",
    "merry",
    "noble",
    "quick",
    "quiet",
    "rapid",
    "silver",
    "still",
    "sunny",
    "swift",
    "tidal",
    "vivid",
]
_NOUNS: Final = [
    "alder",
    "aspen",
    "badger",
    "birch",
    "brook",
    "cedar",
    "cliff",
    "cove",
    "crane",
    "delta",
    "falcon",
    "fern",
    "finch",
    "fjord",
    "grove",
    "harbor",
    "heron",
    "lark",
    "linden",
    "maple",
    "marten",
    "meadow",
    "otter",
    "pine",
    "raven",
    "reed",
    "ridge",
    "river",
    "sparrow",
    "tern",
    "willow",
    "wren",
]
# fmt: on


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Meta:
    """What a stream is. It never changes in the stream's life."""

    session: str
    """32 hexadecimal digits from os.urandom."""
    kind: str
    """run or node."""
    project: str
    run: str
    label: str
    parent: str = ""
    """The session this one branched off; empty for a root."""
    restart_count: int = 0
    """How often the launcher had restarted the job."""
    started_ns: int = 0
    """Wall time, nanoseconds since 1970."""
    host: str = ""
    boot_id: str = ""
    pid: int = 0
    primary: bool = False
    group: str = ""
    extra: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """argv, launcher variables, visible GPUs and such; JSON."""

    @classmethod
    def of_this_process(
        cls,
        *,
        kind: str,
        project: str,
        run: str,
        label: str,
        primary: bool = False,
        group: str = "",
        environ: Mapping[str, str] = os.environ,
        argv: Sequence[str] | None = None,
    ) -> Meta:
        """A root session that starts now, in this process.

        Args:
            kind: run, or node for an agent's own telemetry.
            project: of the run.
            run: its id.
            label: the writer's name within the run.
            primary: whether the label said that it speaks for the run.
            group: a name that several runs share.
            environ: where the launcher's variables are.
            argv: the process's arguments; sys.argv by default.
        """
        return cls(
            session=new_session(),
            kind=kind,
            project=project,
            run=run,
            label=label,
            restart_count=restart_count(environ),
            started_ns=time_ns(),
            host=host_name(),
            boot_id=boot_id(),
            pid=os.getpid(),
            primary=primary,
            group=group,
            extra=extra(environ, sys.argv if argv is None else argv),
        )

    def branch(self) -> Meta:
        """A session that starts now, in a child of this one's process."""
        return dataclasses.replace(
            self,
            session=new_session(),
            parent=self.session,
            started_ns=time_ns(),
            pid=os.getpid(),
        )

    def to_json(self) -> bytes:
        """The bytes of meta.json, at most META_BYTES_MAX: what is extra goes if it must."""
        told = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        told["extra"] = dict(self.extra)
        data = json.dumps(told).encode()
        if len(data) > META_BYTES_MAX:
            told["extra"] = {"cut": f"{len(data)} bytes of meta.json were too many"}
            data = json.dumps(told).encode()
        return data


def new_session() -> str:
    """The id of a new session."""
    return os.urandom(16).hex()


def default_label(environ: Mapping[str, str]) -> str:
    """The rank the launcher gave this process, else "0"."""
    return next((environ[name] for name in LABEL_VARIABLES if environ.get(name)), "0")


def restart_count(environ: Mapping[str, str]) -> int:
    """How often the launcher had restarted the job, 0 where it does not say."""
    return next(
        (int(text) for name in RESTART_VARIABLES if (text := environ.get(name, "")).isdecimal()), 0
    )


def launched_together(environ: Mapping[str, str]) -> int:
    """How many processes the launcher says it started, 1 where it does not say."""
    sizes = (environ.get(name, "") for name in WORLD_SIZE_VARIABLES)
    return next((int(text) for text in sizes if text.isdecimal()), 1)


def run_from_launcher(environ: Mapping[str, str]) -> str | None:
    """The run's id that all processes of a launch share, where the launcher gives one."""
    job = environ.get("SLURM_JOB_ID")
    if not job:
        return None
    step = environ.get("SLURM_STEP_ID")
    return f"slurm-{job}.{step}" if step else f"slurm-{job}"


def generated_run() -> str:
    """A new run's id: two words that can be said aloud, and enough chance to be unique."""
    chance = os.urandom(7)
    words = (_ADJECTIVES[chance[0] % len(_ADJECTIVES)], _NOUNS[chance[1] % len(_NOUNS)])
    return f"{words[0]}-{words[1]}-{chance[2:].hex()}"


def host_name() -> str:
    """This machine's name."""
    return os.uname().nodename


def boot_id() -> str:
    """The kernel's boot id, empty where there is none."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def extra(environ: Mapping[str, str], argv: Sequence[str]) -> dict[str, Any]:
    """What else is worth knowing of this process: arguments, launcher, visible GPUs, Python."""
    return {
        "argv": without_secrets(argv),
        "launcher": {name: environ[name] for name in LAUNCHER_VARIABLES if name in environ},
        "gpus": {name: environ[name] for name in GPU_VARIABLES if name in environ},
        "python": sys.version.split()[0],
        "executable": sys.executable,
    }


def without_secrets(argv: Sequence[str]) -> list[str]:
    """Arguments as they may be shown: values of what looks like a credential are blanked."""
    shown: list[str] = []
    blank_next, left = False, ARGUMENTS_CHARACTERS_MAX
    for argument in argv:
        name, equals, _ = argument.partition("=")
        if blank_next and not argument.startswith("-"):
            argument = "***"
        elif equals and _SECRET.search(name):
            argument = f"{name}=***"
        blank_next = argument.startswith("-") and not equals and bool(_SECRET.search(name))
        left -= len(argument)
        if left < 0:
            return [*shown, "…"]
        shown.append(argument.encode("utf-8", "replace").decode())
    return shown
