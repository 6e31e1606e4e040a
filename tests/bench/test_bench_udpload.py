"""The UDP source and sink over the loopback, as the bench runs them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench import udpload

SCRIPT = Path(udpload.__file__)
RATE = 2_000
SECONDS = 0.5


def started(*words: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-I", "-S", str(SCRIPT), *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def port() -> str:
    import socket

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


def test_what_the_source_says_it_sent_is_what_the_sink_counts(port: str) -> None:
    sink = started("sink", "127.0.0.1", port)
    assert sink.stdout is not None
    assert sink.stdout.readline() == "ready\n"
    source, complaint = started("send", "127.0.0.1", port, "200", str(RATE), str(SECONDS)).communicate()
    assert complaint == ""
    sent = json.loads(source)
    received = json.loads(sink.communicate()[0])
    assert 0 < received["received"] == sent["sent"] <= RATE * sent["lasted_s"] + 1
    assert sent["lasted_s"] >= SECONDS
    assert sent["cpu_s"] > 0
