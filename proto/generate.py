"""Regenerate plaitwire/v1 from its .proto files; with --check, say whether it is in step.

The generator is an old one on purpose (docs/dependencies.md): code from grpcio-tools 1.71.2 runs on
protobuf 5, 6 and 7, so an agent forces no protobuf on the environment it shares with a model. It
needs an older protobuf than our own environment has, and so it lives in an environment of its own,
made here at first use.
"""

from __future__ import annotations

import argparse
import filecmp
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

HERE = Path(__file__).resolve().parent
ENVIRONMENT = HERE.parent / ".venv-generate"
PACKAGE = Path("plaitwire/v1")
REQUIREMENTS = HERE / "generate-requirements.txt"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--check", action="store_true", help="change nothing; exit 1 if out of step"
    )
    arguments = parser.parse_args()
    python = generator_python()
    if not arguments.check:
        generate(python, HERE)
        return 0
    with tempfile.TemporaryDirectory() as scratch:
        generate(python, Path(scratch))
        stale = differences(Path(scratch) / PACKAGE, HERE / PACKAGE)
    for name in stale:
        print(f"out of step with its .proto: proto/{PACKAGE / name}", file=sys.stderr)
    if stale:
        print("run: python proto/generate.py", file=sys.stderr)
    return 1 if stale else 0


def generator_python() -> Path:
    """The interpreter of the generator's environment, which is made if it is not there."""
    python = ENVIRONMENT / "bin" / "python"
    stamp = ENVIRONMENT / "requirements.txt"
    wanted = REQUIREMENTS.read_text()
    if not stamp.exists() or stamp.read_text() != wanted:
        venv.create(ENVIRONMENT, with_pip=True, clear=True)
        command = [python, "-m", "pip", "install", "--quiet", "-r", REQUIREMENTS]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        stamp.write_text(wanted)
    return python


def generate(python: Path, out: Path) -> None:
    """Run protoc; its own words go to stderr, and a failure ends the program."""
    (out / PACKAGE).mkdir(parents=True, exist_ok=True)
    protos = sorted(str(path.relative_to(HERE)) for path in (HERE / PACKAGE).glob("*.proto"))
    subprocess.run(
        [
            python,
            "-m",
            "grpc_tools.protoc",
            f"--plugin=protoc-gen-mypy={python.parent / 'protoc-gen-mypy'}",
            f"--plugin=protoc-gen-mypy_grpc={python.parent / 'protoc-gen-mypy_grpc'}",
            f"--proto_path={HERE}",
            f"--python_out={out}",
            f"--grpc_python_out={out}",
            f"--mypy_out=quiet:{out}",
            f"--mypy_grpc_out=quiet:{out}",
            *protos,
        ],
        check=True,
        cwd=HERE,
    )
    for path in (out / PACKAGE).glob("*_pb2_grpc.py*"):
        if path.name.startswith("types_"):  # No service: nothing in it.
            path.unlink()


def differences(fresh: Path, committed: Path) -> list[str]:
    """Names of generated files that are not the same in both folders."""
    names = {path.name for folder in (fresh, committed) for path in folder.glob("*_pb2*.py*")}
    _, mismatch, missing = filecmp.cmpfiles(fresh, committed, sorted(names), shallow=False)
    return sorted([*mismatch, *missing])


if __name__ == "__main__":
    sys.exit(main())
