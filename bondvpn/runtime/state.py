"""What must survive a restart: the last handshake timestamp, so that a clock that runs backwards
after a reboot locks nobody out."""

import contextlib
import logging
import os
import time
from pathlib import Path

from bondvpn.noise.timestamp import tai64n
from bondvpn.wire.handshake import TIMESTAMP_LEN

log = logging.getLogger(__name__)

STATE_DIR = "/var/lib/bondvpn"


def timestamp_path(name: str) -> Path:
    """`<state dir>/<name>.timestamp`; the state directory is $BONDVPN_STATE_DIR or STATE_DIR."""
    return Path(os.environ.get("BONDVPN_STATE_DIR", STATE_DIR)) / f"{name}.timestamp"


class TimestampFile:
    """The last handshake's timestamp, kept at `timestamp_path`."""

    def __init__(self, name: str) -> None:
        self._path = timestamp_path(name)
        self._last: bytes | None = None
        self._warned = False
        with contextlib.suppress(OSError):
            data = self._path.read_bytes()
            self._last = data if len(data) == TIMESTAMP_LEN else None

    def next(self) -> bytes:
        """TAI64N of now, later than any before."""
        try:
            stamp = tai64n(time.time(), self._last)
        except ValueError:  # the file holds something else
            stamp = tai64n(time.time(), None)
        self._last = stamp
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            draft = self._path.with_suffix(".new")
            draft.write_bytes(stamp)
            draft.replace(self._path)
        except OSError as error:
            if not self._warned:
                log.warning(
                    "%s: %s; after a clock set back the server may refuse us", self._path, error.strerror
                )
                self._warned = True
        return stamp
