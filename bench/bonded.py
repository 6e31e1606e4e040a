"""Labs and tunnels as the benches use them."""

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from bench import meter
from bondvpn.lab.shape import Line
from bondvpn.lab.topology import Lab
from bondvpn.lab.tunnel import BONDVPN, Tunnel, write_configs

PREFIX = "bvb"


@contextlib.contextmanager
def bonded(
    lines: Sequence[Line],
    *,
    prefix: str = PREFIX,
    program: Callable[[str], Sequence[str]] = lambda _end: BONDVPN,
    **settings: Any,
) -> Iterator[tuple[Lab, Tunnel]]:
    """A lab with bondvpn running over all its lines; `program` as for `Tunnel`, `settings` for
    `write_configs`."""
    with (
        tempfile.TemporaryDirectory(prefix="bondvpn-bench-") as directory,
        Lab(lines, prefix=prefix) as lab,
        Tunnel(lab, write_configs(lab, Path(directory), **settings), program=program) as tunnel,
    ):
        meter.settle(lab, tunnel)
        yield lab, tunnel
