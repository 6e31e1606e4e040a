"""The files a lab writes for bondvpn, read back by bondvpn; and names a lab cannot have."""

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from bondvpn.config import load_client, load_server
from bondvpn.errors import ConfigError
from bondvpn.lab.shape import DEMO, Line
from bondvpn.lab.topology import Lab
from bondvpn.lab.tunnel import write_configs


def test_the_written_files_are_valid_and_say_what_the_lab_is(tmp_path: Path) -> None:
    configs = write_configs(Lab(DEMO), tmp_path, rekey_after="1s", routes=["10.9.0.0/24"])
    client, server = load_client(configs.client), load_server(configs.server)
    uplinks = [(up.name, up.interface, str(up.gateway), up.up_bps, up.down_bps) for up in client.uplinks]
    assert uplinks == [
        ("dsl", "dsl", "10.64.1.1", 1_000_000, 16_000_000),
        ("cable", "cable", "10.64.2.1", 5_000_000, 50_000_000),
        ("lte", "lte", "10.64.3.1", 10_000_000, 30_000_000),
    ]
    assert [str(endpoint) for endpoint in client.server.endpoints] == ["198.51.100.1:1189"]
    assert (client.tunnel.interface, client.tunnel.scheduler, client.tunnel.rekey_after_s) == (
        "bond0",
        "weighted",
        1.0,
    )
    assert [str(route.prefix) for route in client.tunnel.routes] == ["10.9.0.0/24"]
    assert str(server.clients[0].tunnel.address[0]) == "172.21.1.1/30"


def test_the_keys_of_both_ends_match(tmp_path: Path) -> None:
    configs = write_configs(Lab(DEMO), tmp_path)
    client, server = load_client(configs.client), load_server(configs.server)
    assert client.server.public_key == public(server.private_key)
    assert server.clients[0].public_key == public(client.private_key)
    assert client.server.preshared_key == server.clients[0].preshared_key


def test_several_clients_have_keys_interfaces_and_addresses_of_their_own(tmp_path: Path) -> None:
    configs = write_configs(Lab(DEMO), tmp_path, clients=3, workers=2)
    server = load_server(configs.server)
    assert server.workers == 2
    assert [known.name for known in server.clients] == ["office", "office2", "office3"]
    for number, (end, known) in enumerate(zip(("client", "client2", "client3"), server.clients, strict=True)):
        client = load_client(configs.of(end))
        assert (client.tunnel.interface, known.tunnel.interface) == (f"bond{number}", f"office{number}")
        assert public(client.private_key) == known.public_key
        assert client.server.preshared_key == known.preshared_key
        assert client.tunnel.address[0].network == known.tunnel.address[0].network
    assert len({known.tunnel.address[0].network for known in server.clients}) == 3
    assert len({known.preshared_key for known in server.clients}) == 3


def test_secrets_are_their_owners_alone_also_when_written_again(tmp_path: Path) -> None:
    for _ in range(2):
        write_configs(Lab(DEMO), tmp_path)
        modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
        assert {modes[name] for name in ("client.key", "server.key", "office.psk")} == {0o600}


def test_speeds_are_left_out_when_unwanted_and_where_there_are_none(tmp_path: Path) -> None:
    learned = load_client(write_configs(Lab(DEMO), tmp_path, scheduler="adaptive", speeds=False).client)
    assert {uplink.down_bps for uplink in learned.uplinks} == {None}
    unshaped = load_client(write_configs(Lab([Line("plain")]), tmp_path).client)
    assert unshaped.uplinks[0].up_bps is None


def test_an_unshaped_line_is_given_the_speed_that_was_asked_for(tmp_path: Path) -> None:
    mixed = [Line("plain"), *DEMO]
    uplinks = load_client(write_configs(Lab(mixed), tmp_path, unshaped_speed="10gbit").client).uplinks
    assert [uplink.down_bps for uplink in uplinks] == [10_000_000_000, 16_000_000, 50_000_000, 30_000_000]


@pytest.mark.parametrize("name", ["", "lo", "sixteen-letters-"])
def test_a_line_that_no_interface_can_be_named_after_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="characters"):
        Lab([Line(name)])


def test_two_lines_of_one_name_are_refused() -> None:
    with pytest.raises(ConfigError, match="each name once"):
        Lab([Line("a"), Line("a")])


def public(private_key: bytes) -> bytes:
    return X25519PrivateKey.from_private_bytes(private_key).public_key().public_bytes_raw()
