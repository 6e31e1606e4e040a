"""Uplinks that change under the traffic: what the tests in namespaces measure while they check it."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from xml.etree import ElementTree

from bench.record import ROOT, Bench, Outcome

TESTS = ROOT / "netns-tests"
REBINDING = TESTS / "test_uplinks_ethernet.py::test_an_address_changes_and_the_link_follows_at_once"
NEW_PORT = TESTS / "test_uplinks_shared.py::test_each_uplink_takes_its_router"
REDIALLING = TESTS / "test_uplinks_dialup.py::test_a_transfer_over_lines_that_are_dialled_again_and_again"
EVERY_S, FOR_S = 5, 120
REBOUND_MAX_S = 0.1
NEW_PORT_MAX_S = 1.0
SHARE_MIN = 0.8


def measure(runs: int) -> Outcome:
    outcome = Outcome()
    figures = {
        "rebound_s": outcome.figure("another address: first datagram from it", "ms", at_most=REBOUND_MAX_S),
        "new_port_s": outcome.figure("another NAT port: both ends use it", "ms", at_most=NEW_PORT_MAX_S),
        "new_port_silence_s": outcome.figure("another NAT port: silence", "ms", at_most=NEW_PORT_MAX_S),
        "redial_share": outcome.figure("dialled again and again: share of Σ", "share", at_least=SHARE_MIN),
        "redial_silence_s": outcome.figure("dialled again and again: silence", "s"),
    }
    for _ in range(runs):
        for name, value in _told(outcome):
            figures[name].add(value)
    outcome.figures = [figure for figure in outcome.figures if figure.runs]
    return outcome


def _told(outcome: Outcome) -> list[tuple[str, float]]:
    """One run of the tests: the properties they recorded; a test that fails fails the bench."""
    with tempfile.TemporaryDirectory() as directory:
        report = Path(directory) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
        command += ["-o", "junit_family=xunit1", f"--junitxml={report}"]  # xunit2 has no properties of a test
        done = subprocess.run(
            [*command, *map(str, (REBINDING, NEW_PORT, REDIALLING))],
            cwd=ROOT,
            env=os.environ | {"BONDVPN_REDIAL": f"{EVERY_S}:{FOR_S}"},
            stdout=sys.stderr,
            check=False,
        )
        if done.returncode != 0:
            outcome.failures.append(f"the tests ended with status {done.returncode}")
        properties = ElementTree.parse(report).iter("property")
        return [(each.attrib["name"], float(each.attrib["value"])) for each in properties]


BENCH = Bench(
    "uplinks",
    "Uplinks that change under the traffic",
    "Taken by the tests themselves (`netns-tests`), which hold them to the rest of each case. Two routers, "
    "and another address on one port seven times: until the first datagram from it passes the router. Two "
    "routers on one Ethernet, of which one forgets what it translates and takes other ports, three times, "
    "under a TCP flow of 20 Mbit/s: until both ends use the line again, and the longest time in which "
    "nothing of the flow came. Two point-to-point lines of 8 Mbit/s, 10 ms, of which one is hung up and "
    f"dialled with another address every {EVERY_S} s, in turns, for {FOR_S} s, under a bbr download: its "
    "rate by what both lines would carry if nobody touched them.",
    measure,
    quick=False,
)
