"""The command line. Exit codes: 0 done, 1 failed while running, 2 bad usage or configuration."""

import base64
import contextlib
import gc
import logging
import os
import stat
import sys
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from bondvpn import __version__
from bondvpn.errors import BondvpnError, ConfigError, SystemFault

CLIENT_CONFIG = Path("/etc/bondvpn/client.toml")
SERVER_CONFIG = Path("/etc/bondvpn/server.toml")

app = typer.Typer(
    name="bondvpn",
    help="Bond several Internet uplinks into one tunnel.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


class LogLevel(StrEnum):
    """What is logged."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


LogLevelOption = Annotated[
    LogLevel | None, typer.Option(help="Least severe events logged to stderr (default: info).")
]
ConfigOption = Annotated[Path, typer.Option("--config", help="Configuration file.")]
DryRunOption = Annotated[
    bool,
    typer.Option("--dry-run", help="Print every device, route, rule and setting, and change nothing."),
]


def main() -> None:
    """The entry point: runs one command and exits."""
    try:
        app()
    except BondvpnError as fault:
        print(fault, file=sys.stderr)
        sys.exit(fault.exit_code)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"bondvpn {__version__}")
        raise typer.Exit


@app.callback()
def _program(
    context: typer.Context,
    log_level: LogLevelOption = None,
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    context.obj = log_level


@app.command()
def genkey() -> None:
    """Print a new private key. A file it is redirected to becomes its owner's alone."""
    scalar = bytearray(os.urandom(32))
    scalar[0] &= 248  # the clamping of RFC 7748 section 5, done here so that any tool sees the same key
    scalar[31] = scalar[31] & 127 | 64
    _print_secret(bytes(scalar))


@app.command()
def genpsk() -> None:
    """Print a new preshared key. A file it is redirected to becomes its owner's alone."""
    _print_secret(os.urandom(32))


@app.command()
def pubkey() -> None:
    """Read a private key on standard input and print its public key."""
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

    from bondvpn import values

    try:
        private = values.key(sys.stdin.read(4096))
    except (values.UnacceptableError, UnicodeDecodeError) as fault:
        raise ConfigError([f"standard input: no private key: {fault}"]) from None
    print(_base64(X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()))


@app.command()
def check(file: Annotated[Path, typer.Argument(help="Configuration file, of a client or a server.")]) -> None:
    """Say whether a configuration file is good, or everything that is wrong with it."""
    from bondvpn import config

    found = config.load(file)
    if isinstance(found, config.ClientConfig):
        named = sum(not uplink.auto for uplink in found.uplinks)
        found_later = " and those it will find" if named < len(found.uplinks) else ""
        print(f"{file}: client configuration, {_count(named, 'uplink')}{found_later}, ok")
    else:
        print(f"{file}: server configuration, {_count(len(found.clients), 'client')}, ok")


@app.command()
def client(
    context: typer.Context,
    config: ConfigOption = CLIENT_CONFIG,
    dry_run: DryRunOption = False,
    log_level: LogLevelOption = None,
) -> None:
    """Run the gateway's end until SIGTERM or SIGINT."""
    from bondvpn.config import load_client

    loaded = load_client(config)
    if dry_run:
        from bondvpn.ui import dryrun

        for line in dryrun.client(loaded):
            print(line)
        return
    _log_to_stderr(log_level or context.obj)
    with _imported_for_good():
        from bondvpn.runtime.client import run_client

    raise typer.Exit(run_client(loaded))


@app.command()
def server(
    context: typer.Context,
    config: ConfigOption = SERVER_CONFIG,
    dry_run: DryRunOption = False,
    log_level: LogLevelOption = None,
) -> None:
    """Run the root server's end until SIGTERM or SIGINT."""
    from bondvpn.config import load_server

    loaded = load_server(config)
    if dry_run:
        from bondvpn.ui import dryrun

        for line in dryrun.server(loaded):
            print(line)
        return
    _log_to_stderr(log_level or context.obj)
    with _imported_for_good():
        from bondvpn.runtime.server import run_server

    raise typer.Exit(run_server(loaded))


@app.command()
def status(
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object, or a list where several processes run.")
    ] = False,
    interface: Annotated[
        str | None, typer.Option(help='Only the process of this interface ("server": the server).')
    ] = None,
) -> None:
    """Show what the running processes are doing."""
    from bondvpn.ui import status as view

    found = view.collect(interface)
    if as_json:
        print(view.as_json(found))
    else:
        view.show(found)


@app.command()
def reload(
    interface: Annotated[
        str | None, typer.Option(help='Only the process of this interface ("server": the server).')
    ] = None,
) -> None:
    """Have the running processes read their files anew and look at their lines, without a restart."""
    from bondvpn.ui import reload as view

    for line in view.reload(interface):
        print(line)


@app.command()
def down(
    config: Annotated[
        Path | None, typer.Option("--config", help="Only the process of this configuration.")
    ] = None,
) -> None:
    """Undo what killed processes left: devices, routes, rules, kernel settings."""
    from bondvpn.linux import journal
    from bondvpn.linux.netlink import Netlink
    from bondvpn.ui import control

    paths = journal.journals() if config is None else [journal.journal_path(_process_name(config))]
    paths = [path for path in paths if path.exists()]
    faults: list[str] = []
    with Netlink() as netlink:
        for path in paths:
            try:
                left = journal.undo_dead(path, netlink)
            except SystemFault as fault:
                left = [str(fault)]
            faults += left
            if not left:
                control.remove_stale(journal.process_name(path))
                print(f"{journal.process_name(path)}: undone")
    if not paths:
        print("nothing to undo")
    if faults:
        raise SystemFault("\n".join(faults))


@app.command()
def doctor(
    config: Annotated[
        Path | None,
        typer.Option(
            "--config", help="Configuration file (default: /etc/bondvpn's client.toml or server.toml)."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
    speed: Annotated[
        bool, typer.Option("--speed", help="Also fill the lines for some seconds, while no client runs.")
    ] = False,
) -> None:
    """Say what keeps it from working here and how to mend it; exit 0 if all is well, else 1."""
    from bondvpn.doctor import report

    path = config or (
        CLIENT_CONFIG if CLIENT_CONFIG.exists() or not SERVER_CONFIG.exists() else SERVER_CONFIG
    )
    found = report.examine(path, speed=speed)
    if as_json:
        print(report.as_json(found))
    else:
        report.show(found)
    raise typer.Exit(0 if found.well else 1)


@app.command("import-eql")
def import_eql(
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="The old setup's files: /etc, or a directory of copies.")
    ],
    output: Annotated[Path, typer.Option("--output", help="Where to write; made if need be.")] = Path(),
    force: Annotated[
        bool, typer.Option("--force", help="Overwrite client.toml and server.toml; keys always stay.")
    ] = False,
) -> None:
    """Make client.toml and server.toml, with keys, of OpenVPN tunnels bundled by the kernel's eql."""
    from bondvpn.migration.importer import import_eql as run

    for line in run(directory, output, overwrite=force):
        print(line)


@app.command()
def demo(
    quick: Annotated[bool, typer.Option("--quick", help="The short form, under 25 seconds.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Only the result, as JSON.")] = False,
) -> None:
    """Show a whole bonded network in namespaces on this machine; needs root and no configuration."""
    from bondvpn.ui import demo as show

    raise typer.Exit(show.main(quick=quick, as_json=as_json))


@contextlib.contextmanager
def _imported_for_good() -> Iterator[None]:
    """What is imported meanwhile stays as long as the process, so the collector never looks at it: not while
    it comes, nor when the work begins, which were 50 ms of a start of 350."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def _process_name(path: Path) -> str:
    """What names the journal and the control socket of the process that the configuration is for."""
    from bondvpn import config

    found = config.load(path)
    return found.tunnel.interface if isinstance(found, config.ClientConfig) else config.SERVER_SOCKET


def _log_to_stderr(level: LogLevel | None) -> None:
    stamp = "" if _stderr_is_journald() else "%(asctime)s "
    logging.basicConfig(
        stream=sys.stderr,
        level=(level or LogLevel.INFO).value.upper(),
        format=stamp + "%(levelname)s %(name)s: %(message)s",
    )


def _stderr_is_journald() -> bool:
    """systemd.exec(5): `$JOURNAL_STREAM` holds device:inode of the stream that the journal reads."""
    with contextlib.suppress(OSError):
        here = os.fstat(sys.stderr.fileno())
        return os.environ.get("JOURNAL_STREAM") == f"{here.st_dev}:{here.st_ino}"
    return False


def _print_secret(secret: bytes) -> None:
    with contextlib.suppress(OSError):
        if stat.S_ISREG(os.fstat(sys.stdout.fileno()).st_mode):
            os.fchmod(sys.stdout.fileno(), 0o600)
    print(_base64(secret))


def _base64(raw: bytes) -> str:
    return base64.b64encode(raw).decode("ascii")


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"
