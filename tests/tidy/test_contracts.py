"""The import contracts of pyproject.toml leave no module out."""

from __future__ import annotations

import tomllib

from tests.tidy.sources import ROOT

CONTRACTS = {
    contract["name"]: contract
    for contract in tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"][
        "contracts"
    ]
}


def test_every_module_of_a_rank_is_held_to_the_standard_library() -> None:
    """A new module of plait, but for api, cli and the package itself, stands in the contract."""
    held = set(CONTRACTS["a rank needs the standard library alone"]["source_modules"])
    modules = {f"plait.{path.stem}" for path in (ROOT / "sdk/plait").glob("[a-z]*.py")}
    assert modules
    assert sorted(modules - held) == []


def test_contracts_name_modules_that_exist() -> None:
    """No contract speaks of a module that was renamed since."""
    folders = {
        "plaitwire": "proto",
        "plait": "sdk",
        "plait_agent": "agent",
        "plait_collector": "collector",
    }
    named = {name for contract in CONTRACTS.values() for name in contract.get("source_modules", ())}
    gone = []
    for name in sorted(named):
        path = ROOT / folders[name.partition(".")[0]] / name.replace(".", "/")
        if not path.is_dir() and not path.with_suffix(".py").exists():
            gone.append(name)
    assert gone == []
