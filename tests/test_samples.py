"""The samples for pppd, ifupdown and NetworkManager: each reloads when it should, and only then."""

import os
import subprocess
import time
from pathlib import Path

import pytest

SAMPLES = Path(__file__).parent.parent / "docs" / "samples"
PPP = SAMPLES / "ppp/ip-up.d/bondvpn"
IFUP = SAMPLES / "network/if-up.d/bondvpn"
DISPATCHER = SAMPLES / "NetworkManager/dispatcher.d/50-bondvpn"


@pytest.mark.parametrize(
    ("sample", "arguments", "environment", "reloads"),
    [
        (PPP, ["ppp0", "", "0", "10.0.0.2", "10.0.0.1", "dsl"], {}, True),
        (IFUP, [], {"IFACE": "eth1"}, True),
        (IFUP, [], {"IFACE": "lo"}, False),
        (DISPATCHER, ["eth1", "up"], {}, True),
        (DISPATCHER, ["eth1", "dhcp4-change"], {}, True),
        (DISPATCHER, ["eth1", "hostname"], {}, False),
    ],
)
def test_samples(
    tmp_path: Path, sample: Path, arguments: list[str], environment: dict[str, str], reloads: bool
) -> None:
    called = tmp_path / "called"
    for name, script in (("bondvpn", f'echo "$*" >> {called}; sleep 0.5'), ("logger", "cat")):
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    started = time.monotonic()
    subprocess.run(
        [sample, *arguments],
        env={"PATH": f"{tmp_path}{os.pathsep}/usr/bin:/bin", **environment},
        check=True,
        timeout=10,
    )
    assert time.monotonic() - started < 0.45  # who dials must not wait for us
    give_up_at = time.monotonic() + (10 if reloads else 0.2)
    while not _said(called) and time.monotonic() < give_up_at:
        time.sleep(0.01)
    assert _said(called) == ("reload\n" if reloads else "")


def _said(called: Path) -> str:
    """What `called` holds: the shell makes the file before it writes into it."""
    return called.read_text() if called.exists() else ""
