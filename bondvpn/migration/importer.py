"""`bondvpn import-eql`: reads the old setup, writes both configurations and their keys, with an account."""

import base64
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from bondvpn import config, values
from bondvpn.errors import ConfigError, SystemFault
from bondvpn.migration import configuration, setup
from bondvpn.migration.configuration import NAME, Draft, PublicKeys
from bondvpn.migration.sources import Sources

CONFIGURATIONS = ("client.toml", "server.toml")
KEYS = ("client.key", "server.key")
PRESHARED_KEY = f"{NAME}.psk"


def import_eql(directory: Path, output: Path, *, overwrite: bool) -> list[str]:
    """Write the files into `output` (made if need be) and return the account, line by line.

    Keys that are there stay. Raises ConfigError for a setup that cannot be read, and where files are there
    that must not be overwritten; SystemFault where nothing can be written. Either way nothing has changed.
    """
    there = [str(output / name) for name in CONFIGURATIONS if os.path.lexists(output / name)]
    if there and not overwrite:
        raise ConfigError([f"{path}: is there; --force overwrites it" for path in there])
    sources = Sources(directory)
    found = setup.read(sources)
    try:
        output.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".import-", dir=output) as scratch:
            drafted, new = _write(Path(scratch), output, found)
            for name in new:
                (Path(scratch) / name).replace(output / name)
    except OSError as fault:
        raise SystemFault(f"{output}: cannot be written: {fault.strerror}") from None
    return list(_account(directory, output, drafted, sources.unread, new))


def _write(scratch: Path, output: Path, found: setup.Setup) -> tuple[Draft, list[str]]:
    """Everything into `scratch`, checked there; the names that are new."""
    new = list(CONFIGURATIONS)
    public: dict[str, str] = {}
    for name in (*KEYS, PRESHARED_KEY):
        if os.path.lexists(output / name):
            shutil.copy(output / name, scratch / name)
            secret = values.key((scratch / name).read_text(encoding="ascii", errors="replace"))
        else:
            secret = (
                os.urandom(32) if name == PRESHARED_KEY else X25519PrivateKey.generate().private_bytes_raw()
            )
            _write_file(scratch / name, base64.b64encode(secret).decode() + "\n")
            new.append(name)
        if name in KEYS:
            own = X25519PrivateKey.from_private_bytes(secret).public_key()
            public[name] = base64.b64encode(own.public_bytes_raw()).decode()
    drafted = configuration.draft(found, PublicKeys(*(public[name] for name in KEYS)))
    for name, text in zip(CONFIGURATIONS, (drafted.client, drafted.server), strict=True):
        _write_file(scratch / name, text)
    config.load_client(scratch / "client.toml")
    config.load_server(scratch / "server.toml")
    return drafted, new


def _write_file(path: Path, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as out:
        out.write(text)


def _account(
    directory: Path, output: Path, drafted: Draft, unread: list[str], new: list[str]
) -> Iterator[str]:
    yield f"taken from {directory}:"
    for value, place in drafted.taken:
        yield f"  {value}  ({place})"
    yield "chosen:"
    for line in drafted.chosen:
        yield f"  {line}"
    together: dict[str, list[str]] = {}
    for said in drafted.not_taken:
        together.setdefault(said.value, []).append(str(said.place))
    if together or unread:
        yield "not carried over:"
    for why, places in together.items():
        yield f"  {', '.join(dict.fromkeys(places))}: {why}"
    for line in unread:
        yield f"  {line}"
    yield f"written to {output}: {', '.join(sorted(new))}"
    kept = [name for name in (*KEYS, PRESHARED_KEY) if name not in new]
    if kept:
        yield f"kept: {', '.join(kept)}"
    yield f"to the root server: server.toml, server.key, {PRESHARED_KEY}"
