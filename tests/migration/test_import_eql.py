"""`bondvpn import-eql` on whole setups, each in the documented formats (tests/migration/setups):

classic  an /etc: static keys, two PPP lines, a port and a table each, marks and SNAT by ip-up.d
routers  TLS, two servers, two routers: loops, functions, arithmetic, sourced variables
messy    tabs, CRLF, quotes, comments, inline files, connection blocks, `local`, `mark`, `bind-dev`
flat     copies in one directory, speeds that are ratios, pieces missing
"""

import shutil
import sys
from ipaddress import ip_address, ip_interface, ip_network
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bondvpn import cli, config
from bondvpn.config import ClientConfig, ServerConfig
from bondvpn.errors import ConfigError
from bondvpn.migration import configuration
from bondvpn.migration.configuration import PublicKeys
from bondvpn.migration.importer import import_eql
from bondvpn.migration.setup import read
from bondvpn.migration.sources import Sources
from bondvpn.values import Endpoint

SETUPS = Path(__file__).parent / "setups"


class Imported:
    """What an import wrote and said."""

    def __init__(self, directory: Path, output: Path, *, overwrite: bool = False) -> None:
        self.account = import_eql(directory, output, overwrite=overwrite)
        self.client: ClientConfig = config.load_client(output / "client.toml")
        self.server: ServerConfig = config.load_server(output / "server.toml")
        self.output = output

    def said(self, *parts: str) -> bool:
        """Whether one line of the account holds all of these."""
        return any(all(part in line for part in parts) for line in self.account)


@pytest.fixture(params=["classic", "routers", "messy", "flat"])
def imported(request: pytest.FixtureRequest, tmp_path: Path) -> Imported:
    return Imported(SETUPS / request.param, tmp_path / "out")


def _copy(name: str, to: Path) -> Path:
    shutil.copytree(SETUPS / name, to)
    return to


def test_both_ends_fit_each_other(imported: Imported) -> None:
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

    client, server = imported.client, imported.server
    (peer,) = server.clients

    def public(private: bytes) -> bytes:
        return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()

    assert client.server.public_key == public(server.private_key)
    assert peer.public_key == public(client.private_key)
    assert client.server.preshared_key == peer.preshared_key is not None
    assert {one.port for one in client.server.endpoints} == {one.port for one in server.listen}
    (near,), (far,) = client.tunnel.address, peer.tunnel.address
    assert near.network == far.network
    assert near.ip != far.ip


def test_only_their_owner_reads_what_is_written(imported: Imported) -> None:
    files = {path.name: path.stat().st_mode & 0o777 for path in imported.output.iterdir()}
    assert files == dict.fromkeys(
        ("client.toml", "server.toml", "client.key", "server.key", "office.psk"), 0o600
    )


def test_classic(tmp_path: Path) -> None:
    found = Imported(SETUPS / "classic", tmp_path)
    first, second = found.client.uplinks
    assert (first.name, first.interface, first.table, first.mark) == ("ppp0", "ppp0", 189, 1)
    assert (second.name, second.interface, second.table, second.mark) == ("ppp1", "ppp1", 190, 2)
    assert (first.up_bps, second.up_bps) == (500_000, 2_000_000)
    assert (first.gateway, first.source, first.down_bps) == (None, None, None)
    assert found.client.tunnel.address == (ip_interface("172.21.1.2/30"),)
    assert found.client.tunnel.routes == (config.Route(ip_network("10.0.0.0/8"), ip_address("172.21.1.1")),)
    assert found.client.server.endpoints == (Endpoint("198.51.100.1", 1189),)
    assert [str(one.prefix) for one in found.server.clients[0].tunnel.routes] == ["192.168.10.0/24"]
    assert found.said('uplink[0].interface = "ppp0"', "ppp/ip-up.d/vpn:13")
    assert found.said('uplink[1].up = "2mbit"', "openvpn/eql-up.sh:8")
    assert found.said("uplink[1].table = 190", "iproute2/rt_tables:10")
    assert found.said("openvpn/client1.conf:9", "openvpn/client2.conf:9", "comp-lzo")
    assert found.said("network/interfaces:14", "mtu 1400")
    assert not any("usepeerdns" in line for line in found.account)  # another package's script


def test_routers(tmp_path: Path) -> None:
    found = Imported(SETUPS / "routers", tmp_path)
    lines = [
        (one.interface, str(one.gateway), one.table, one.mark, one.up_bps) for one in found.client.uplinks
    ]
    assert lines == [
        ("eth1", "192.168.1.1", 101, 1, 1_000_000),
        ("eth2", "192.168.2.1", 102, 2, 4_000_000),
    ]
    assert found.client.server.endpoints == (
        Endpoint("root1.example.net", 5001),
        Endpoint("root2.example.net", 5001),
    )
    assert [str(one.prefix) for one in found.client.tunnel.routes] == ["192.168.77.0/24", "10.20.0.0/16"]
    assert found.server.clients[0].tunnel.address == (ip_interface("172.16.0.1/24"),)
    assert found.said("root1.example.net", "root2.example.net", "the same server.toml and keys")
    assert found.client.tunnel.default_route
    assert found.client.tunnel.peer == (ip_address("172.16.0.1"),)  # a /24 does not tell
    assert found.said("tunnel.default_route = true", "network/interfaces:13")
    assert not any("never" in line for line in found.account)  # what stands in a here-document


def test_messy(tmp_path: Path) -> None:
    found = Imported(SETUPS / "messy", tmp_path)
    first, second = found.client.uplinks
    assert (first.interface, str(first.source), str(first.gateway)) == ("dsl", "10.1.0.2", "10.1.0.1")
    assert (first.mark, first.up_bps) == (0x11, 500_000)  # shaper: bytes per second
    assert second.interface == "wwan0"
    assert [str(one) for one in found.client.server.endpoints] == [
        "203.0.113.9:7000",
        "vpn.example.org:7001",
        "[2001:db8::9]:7000",
        "203.0.113.10:443",
    ]
    assert found.said("etc/openvpn/client.conf:6", "TCP")
    assert found.said("etc/openvpn/client.conf:15", "the script is not there")
    assert found.said("etc/openvpn/client.conf:16", "http-proxy")
    assert found.client.tunnel.default_route
    assert found.said("tunnel.default_route = true", "etc/openvpn/second.ovpn:11")
    assert not any("192.0.2" in line for line in found.account)  # inline files are no options


def test_flat(tmp_path: Path) -> None:
    found = Imported(SETUPS / "flat", tmp_path)
    assert [(one.interface, one.up_bps) for one in found.client.uplinks] == [("ppp0", None), ("ppp1", None)]
    assert found.said("eqlup:2", "5 is a ratio")
    assert found.said("client-c.conf:1", "which line this tunnel left by is not known")
    assert '# name = "client-c"' in (tmp_path / "client.toml").read_text()
    assert found.said("172.21.1.2/30", "no eql interface with an address")


@pytest.mark.parametrize("gone", ["iproute2/rt_tables", "network/interfaces", "openvpn/eql-up.sh"])
def test_a_missing_piece_is_missed_and_the_rest_is_taken(tmp_path: Path, gone: str) -> None:
    setup = _copy("classic", tmp_path / "etc")
    (setup / gone).unlink()
    found = Imported(setup, tmp_path / "out")
    first, _ = found.client.uplinks
    assert first.interface == "ppp0"
    assert first.table == (None if "rt_tables" in gone else 189)
    assert first.up_bps == (None if "eql-up" in gone else 500_000)
    assert str(found.client.tunnel.address[0]) == "172.21.1.2/30"
    assert found.said("no eql interface") == ("interfaces" in gone)
    assert found.said("openvpn/client1.conf:7", "with it the line's speed") == ("eql-up" in gone)


def test_without_a_line_for_any_tunnel_nothing_is_written(tmp_path: Path) -> None:
    setup = _copy("classic", tmp_path / "etc")
    (setup / "ppp/ip-up.d/vpn").unlink()
    (setup / "ppp/ip-up.d/0000usepeerdns").unlink()
    with pytest.raises(ConfigError) as refused:
        Imported(setup, tmp_path / "out")
    assert len(refused.value.errors) == 2
    assert refused.value.errors[0].startswith("openvpn/client1.conf: client1: which line")
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    ("files", "wrong"),
    [
        ({}, "no text file"),
        ({"notes": "remember the milk"}, "no OpenVPN client"),
        ({"client.conf": "dev tap0\nlocal 10.0.0.2"}, "no OpenVPN client has a `remote`"),
        ({"client.conf": "dev tap0\nremote not/a/host\nlocal 10.0.0.2"}, "client.conf:2"),
    ],
)
def test_no_setup(tmp_path: Path, files: dict[str, str], wrong: str) -> None:
    setup = tmp_path / "etc"
    setup.mkdir()
    for name, text in files.items():
        (setup / name).write_text(text)
    with pytest.raises(ConfigError, match=wrong):
        Imported(setup, tmp_path / "out")


def test_nothing_is_overwritten_without_being_told(tmp_path: Path) -> None:
    Imported(SETUPS / "classic", tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(ConfigError) as refused:
        Imported(SETUPS / "routers", tmp_path)
    assert [line.partition(": ")[0] for line in refused.value.errors] == [
        str(tmp_path / name) for name in ("client.toml", "server.toml")
    ]
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    again = Imported(SETUPS / "routers", tmp_path, overwrite=True)
    after = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"client.toml", "server.toml"}  # the keys may be in use already
    assert again.said("kept: client.key, server.key, office.psk")


def test_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["bondvpn", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return int(ended.value.code or 0)

    output = str(tmp_path / "new" / "bondvpn")
    assert run("import-eql", str(SETUPS / "classic"), "--output", output) == 0
    assert capsys.readouterr().out.startswith("taken from ")
    for name in ("client.toml", "server.toml"):
        assert run("check", f"{output}/{name}") == 0
    capsys.readouterr()
    assert run("import-eql", str(SETUPS / "classic"), "--output", output) == 2
    assert "--force" in capsys.readouterr().err
    assert run("import-eql", str(SETUPS / "classic"), "--output", output, "--force") == 0
    assert run("import-eql", str(tmp_path / "absent")) == 2


LINE = st.sampled_from(
    [
        line
        for path in sorted(SETUPS.rglob("*"))
        if path.is_file()
        for line in path.read_bytes().decode().split("\n")
    ]
) | st.text(st.sampled_from("$(){}[]\"'`;|&<>\\#= \tab1/-."), max_size=30)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    profile=st.lists(LINE, max_size=12),
    script=st.lists(LINE, max_size=25),
    stanzas=st.lists(LINE, max_size=12),
    peers=st.lists(LINE, max_size=4),
)
def test_whatever_stands_in_the_files_is_taken_or_refused(
    tmp_path_factory: pytest.TempPathFactory,
    profile: list[str],
    script: list[str],
    stanzas: list[str],
    peers: list[str],
) -> None:
    setup = tmp_path_factory.mktemp("etc")
    files = {
        "client.conf": ["dev tap0", "remote 198.51.100.1", "local 10.0.0.2", "up vpn", *profile],
        "ip-up.d/vpn": ["#!/bin/sh", *script],
        "interfaces": stanzas,
        "peers/dsl": peers,
    }
    for name, lines in files.items():
        (setup / name).parent.mkdir(exist_ok=True)
        (setup / name).write_text("\n".join(lines), newline="")
    try:
        configuration.draft(read(Sources(setup)), PublicKeys("", ""))
    except ConfigError:
        return  # the files do not suffice
    Imported(setup, setup / "out")  # they do: what is made of them is accepted
