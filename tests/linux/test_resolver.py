"""What a resolvectl that fails leads to; what it is told stands in netns-tests/test_name_servers.py."""

from pathlib import Path

import pytest

from bondvpn.errors import SystemFault
from bondvpn.linux import resolver
from bondvpn.linux.resolver import Resolver


def _resolvectl(directory: Path, script: str) -> None:
    program = directory / "resolvectl"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("echo Link bond0 is unknown >&2; echo more >&2; exit 1", "Link bond0 is unknown"),
        ("exit 3", "exit status 3"),
    ],
)
def test_what_fails_is_said_and_taking_back_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, why: str
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    _resolvectl(tmp_path, script)
    assert resolver.missing() == ""
    with pytest.raises(SystemFault) as fault:
        resolver.put(Resolver(interface="bond0", servers=("172.21.1.1",), domains=("~.",)))
    assert str(fault.value) == f"resolvectl dns bond0 172.21.1.1: {why}"
    resolver.revert("bond0")  # the interface has gone, and what was set with it
