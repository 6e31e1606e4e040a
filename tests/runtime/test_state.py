"""The last handshake timestamp survives restarts."""

import logging
from pathlib import Path

import pytest

from bondvpn.runtime import state
from bondvpn.runtime.state import TimestampFile
from bondvpn.wire.handshake import TIMESTAMP_LEN


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BONDVPN_STATE_DIR", str(tmp_path / "state"))
    return tmp_path / "state"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1_700_000_000.0]
    monkeypatch.setattr(state.time, "time", lambda: now[0])
    return now


def test_every_stamp_is_later_whatever_the_clock_does(clock: list[float]) -> None:
    stamps = [TimestampFile("bond0").next()]
    for step in (0.0, 1.0, -3600.0, -1e8, 0.0, 2e8):
        clock[0] += step
        file = TimestampFile("bond0")  # another process
        stamps += [file.next(), file.next()]
    assert stamps == sorted(set(stamps))
    assert all(len(stamp) == TIMESTAMP_LEN for stamp in stamps)


def test_the_file_is_the_last_stamp_and_its_directory_is_roots(clock: list[float], directory: Path) -> None:
    stamp = TimestampFile("bond0").next()
    assert [path.name for path in directory.iterdir()] == ["bond0.timestamp"]
    assert (directory / "bond0.timestamp").read_bytes() == stamp
    assert directory.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("content", [b"", b"short", bytes(40), b"\xff" * 12, b"\0" * 8 + b"\xff" * 4])
def test_a_damaged_file_does_not_stop_the_program(
    clock: list[float], directory: Path, content: bytes
) -> None:
    directory.mkdir()
    (directory / "bond0.timestamp").write_bytes(content)
    file = TimestampFile("bond0")
    first = file.next()
    assert first < file.next()
    assert (directory / "bond0.timestamp").read_bytes() > first


def test_a_directory_that_cannot_be_written_is_told_once(
    clock: list[float], directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    directory.write_text("no directory")
    with caplog.at_level(logging.WARNING):
        file = TimestampFile("bond0")
        assert file.next() < file.next()
    assert len(caplog.records) == 1
    assert "may refuse us" in caplog.text


def test_interfaces_have_files_of_their_own(clock: list[float], directory: Path) -> None:
    TimestampFile("bond0").next()
    TimestampFile("bond1").next()
    assert sorted(path.stem for path in directory.iterdir()) == ["bond0", "bond1"]
