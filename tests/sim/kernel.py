"""The same scenario on kernel TCP in network namespaces (as root): what the simulator is held to."""

import contextlib
import tempfile
from collections.abc import Sequence
from pathlib import Path

from scenario import Scenario

from bench import meter
from bondvpn.lab.measure import TcpResult, tcp
from bondvpn.lab.shape import Line
from bondvpn.lab.topology import Lab
from bondvpn.lab.tunnel import PEER_ADDRESS, Tunnel, write_configs

PREFIX = "bvx"


def measure(scenario: Scenario, *, plain: bool) -> list[TcpResult]:
    """One flow (or several) by iperf3: through the bond, or over each line alone."""
    seconds = scenario.seconds - scenario.skip_s

    def flow(lab: Lab, address: str) -> TcpResult:
        return tcp(
            lab,
            address,
            seconds,
            congestion=scenario.cc,
            reverse=not scenario.upload,
            parallel=scenario.flows,
            omit_s=round(scenario.skip_s),
        )

    with contextlib.ExitStack() as stack:
        lines: Sequence[Line] = scenario.lines
        lab = stack.enter_context(Lab(lines, prefix=PREFIX))
        if plain:
            return [flow(lab, lab.gateway(line.name)) for line in lines]
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bondvpn-explore-")))
        configs = write_configs(lab, directory, scheduler=scenario.scheduler, speeds=scenario.speeds)
        tunnel = stack.enter_context(Tunnel(lab, configs))
        meter.settle(lab, tunnel)
        return [flow(lab, PEER_ADDRESS)]
