"""Runs the checks and shows what they found."""

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from bondvpn import config
from bondvpn.config import SERVER_SOCKET, ClientConfig, ServerConfig
from bondvpn.doctor import files, lines, machine, plan
from bondvpn.doctor.finding import Finding
from bondvpn.errors import SystemFault
from bondvpn.linux import policy
from bondvpn.linux.journal import journal_path, owner_runs
from bondvpn.linux.netlink import Netlink
from bondvpn.runtime.state import timestamp_path
from bondvpn.runtime.trial import Tried, try_lines
from bondvpn.ui import control

_WIDTH_OF_A_FILE = 160  # columns where there is no terminal to ask


@dataclass(slots=True)
class Report:
    """All that was looked at."""

    path: Path
    role: str
    running: bool
    findings: list[Finding] = field(default_factory=list)
    lines: list[Tried] = field(default_factory=list)

    @property
    def well(self) -> bool:
        return all(finding.well for finding in self.findings)


def examine(path: Path, *, speed: bool) -> Report:
    """Look at everything that the configuration needs. Raises ConfigError when it cannot be read."""
    with _quiet():
        settings = config.load(path)
        if isinstance(settings, ClientConfig):
            return _client(settings, speed=speed)
        return _server(settings)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without a log: what it would tell is found here."""
    log = logging.getLogger("bondvpn")
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(level)


def _client(settings: ClientConfig, *, speed: bool) -> Report:
    name = settings.tunnel.interface
    status, silent = _status(name)
    report = Report(settings.path, "client", _runs(name, status))
    found = report.findings
    found += silent
    effective = machine.effective_capabilities()
    found += _always(settings.path, settings.hooks, effective, name)
    able = machine.capabilities(effective).well
    with Netlink() as netlink:
        left = list(plan.leftovers(name, netlink, running=report.running))
        found += left
        planned = plan.of(settings, status, netlink)
        found += plan.uplinks(planned)
        for interface in planned.loose_interfaces:
            found += machine.interface_offloads(interface)
        found += plan.installed(settings, planned, netlink, running=report.running)
        found.append(plan.tunnel_addresses(settings.tunnel, netlink, running=report.running))
        found += plan.full_tunnel(settings.tunnel, netlink, running=report.running)
    found += machine.forwarding([settings.tunnel], server=False, running=report.running)
    found += machine.packet_filter(planned.tables, running=report.running)
    found += machine.name_servers(settings.tunnel)
    if status is not None:
        report.lines = lines.of_status(status)
    elif able and not report.running and not any(one.check == "leftovers" for one in left):
        try:
            report.lines = try_lines(settings, speed=speed)
        except SystemFault as fault:
            found.append(Finding("reach", name, str(fault), "bondvpn down, then bondvpn doctor"))
    here = {binding.uplink.name for binding in planned.bindings if not binding.waiting}
    tried = [one for one in report.lines if one.uplink in here]  # the others are told of above
    found += lines.findings(tried, settings, running=report.running)
    return report


def _server(settings: ServerConfig) -> Report:
    status, silent = _status(SERVER_SOCKET)
    report = Report(settings.path, "server", _runs(SERVER_SOCKET, status))
    found = report.findings
    found += silent
    found += _always(settings.path, settings.hooks, machine.effective_capabilities(), SERVER_SOCKET)
    with Netlink() as netlink:
        found += plan.leftovers(SERVER_SOCKET, netlink, running=report.running)
        for client in settings.clients:
            found.append(plan.tunnel_addresses(client.tunnel, netlink, running=report.running))
        tunnels = [client.tunnel for client in settings.clients]
        planned = policy.plan_of_server(tunnels)
    found += machine.forwarding(tunnels, server=True, running=report.running)
    found += machine.packet_filter(planned.tables, running=report.running)
    if not report.running:
        found += machine.ports(settings)
    if status is not None:
        for tunnel in status["tunnels"]:
            found.append(Finding("client", tunnel["name"], tunnel["state"]))
    return report


def _always(path: Path, hooks: config.Hooks, effective: int, name: str) -> Iterator[Finding]:
    """What both ends need."""
    yield machine.device_node()
    yield machine.capabilities(effective)
    yield from machine.kernel(effective)
    yield machine.clock(timestamp_path(name))
    yield from files.keys(path)
    yield from files.hooks(hooks)


def _runs(name: str, status: object) -> bool:
    """Whether there is a process, be it one that does not answer."""
    try:
        return status is not None or owner_runs(journal_path(name))
    except SystemFault:
        return False


def _status(name: str) -> tuple[dict[str, Any] | None, list[Finding]]:
    """The running process's, and what is wrong with one that does not give it."""
    try:
        return control.ask(control.socket_path(name), "status"), []
    except SystemFault as fault:
        return None, [Finding("process", name, str(fault), "run it as root; else restart bondvpn")]


def as_json(report: Report) -> str:
    """One object."""
    shown = {
        "config": str(report.path),
        "role": report.role,
        "running": report.running,
        "well": report.well,
        "findings": [asdict(one) | {"well": one.well} for one in report.findings],
        "lines": lines.as_objects(report.lines),
    }
    return msgspec.json.format(msgspec.json.encode(shown), indent=2).decode()


def show(report: Report) -> None:
    """A table on standard output: what is wrong last, where it is seen."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=_WIDTH_OF_A_FILE)
    runs = "runs" if report.running else "does not run"
    table = Table(title=f"{report.path}: {report.role}, {runs}", title_justify="left", show_lines=False)
    for heading in ("", "check", "of", "found"):
        table.add_column(heading)
    for one in sorted(report.findings, key=lambda one: not one.well):
        mark = Text("ok", "green") if one.well else Text("!!", "red")
        table.add_row(mark, one.check, Text(one.subject), Text(one.found))
    console.print(table)
    wrong = [one for one in report.findings if not one.well]
    for one in wrong:
        console.print(Text.assemble((f"{one.check} {one.subject}", "bold"), f": {one.found}"), soft_wrap=True)
        console.print(Text(f"    {one.mend}"), soft_wrap=True)
    if not wrong:
        console.print("all well")
