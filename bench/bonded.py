"""Labs and tunnels as the benches use them."""

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bench import meter
from bondvpn.lab.shape import Line
from bondvpn.lab.topology import Lab
from bondvpn.lab.tunnel import Tunnel, write_configs

PREFIX = "bvb"


@contextlib.contextmanager
def bonded(lines: Sequence[Line], *, prefix: str = PREFIX, **settings: Any) -> Iterator[tuple[Lab, Tunnel]]:
    """A lab with bondvpn running over all its lines; `settings` as for `write_configs`."""
    with (
        tempfile.TemporaryDirectory(prefix="bondvpn-bench-") as directory,
        Lab(lines, prefix=prefix) as lab,
        Tunnel(lab, write_configs(lab, Path(directory), **settings)) as tunnel,
    ):
        meter.settle(lab, tunnel)
        yield lab, tunnel
