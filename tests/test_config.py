"""The configuration files: what is read, and that every mistake is named with its place and remedy."""

import base64
import contextlib
from ipaddress import ip_address, ip_interface, ip_network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bondvpn import config, values
from bondvpn.errors import ConfigError

PRIVATE = bytes(range(32))
PSK = bytes(range(100, 132))
PUBLIC = base64.b64encode(bytes(range(200, 232))).decode()
PUBLIC_2 = base64.b64encode(bytes(range(201, 233))).decode()

CLIENT = f"""
private_key_file = "client.key"
[tunnel]
interface = "bond0"
address = ["172.21.1.2/30"]
mtu = 1500
default_route = false
scheduler = "adaptive"
[[server]]
public_key = "{PUBLIC}"
preshared_key_file = "office.psk"
endpoints = ["198.51.100.1:1189"]
[[uplink]]
name = "dsl"
interface = "ppp0"
up = "500kbit"
down = "6mbit"
"""

SERVER = f"""
private_key_file = "server.key"
listen = ["0.0.0.0:1189", "[::]:1189"]
[[client]]
name = "office"
public_key = "{PUBLIC}"
preshared_key_file = "office.psk"
[client.tunnel]
interface = "office0"
address = ["172.21.1.1/30"]
routes = ["192.168.10.0/24"]
"""


def _write_secret(path: Path, raw: bytes, mode: int = 0o600) -> None:
    path.write_bytes(base64.b64encode(raw) + b"\n")
    path.chmod(mode)


@pytest.fixture
def etc(tmp_path: Path) -> Path:
    for name in ("client.key", "server.key"):
        _write_secret(tmp_path / name, PRIVATE)
    _write_secret(tmp_path / "office.psk", PSK)
    return tmp_path


def _file(etc: Path, text: str, name: str = "file.toml") -> Path:
    path = etc / name
    path.write_text(text, encoding="utf-8")
    return path


def _errors(path: Path) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        config.load(path)
    assert caught.value.exit_code == 2
    prefix = f"{path}: "
    assert all(line.startswith(prefix) and "\n" not in line for line in caught.value.errors)
    return [line.removeprefix(prefix) for line in caught.value.errors]


def test_the_contracts_client_example(etc: Path) -> None:
    loaded = config.load_client(_file(etc, CLIENT))
    assert loaded.private_key == PRIVATE
    assert loaded.tunnel == config.Tunnel(interface="bond0", address=(ip_interface("172.21.1.2/30"),))
    assert (loaded.tunnel.scheduler, loaded.tunnel.rekey_after_s, loaded.tunnel.mtu) == (
        "adaptive",
        120,
        1500,
    )
    assert loaded.server.preshared_key == PSK
    assert loaded.server.endpoints == (("198.51.100.1", 1189),)
    assert loaded.uplinks == (
        config.Uplink(name="dsl", interface="ppp0", up_bps=500_000, down_bps=6_000_000),
    )


def test_the_contracts_server_example(etc: Path) -> None:
    loaded = config.load_server(_file(etc, SERVER))
    assert loaded.listen == (("0.0.0.0", 1189), ("::", 1189))
    (office,) = loaded.clients
    assert (office.name, office.preshared_key) == ("office", PSK)
    assert office.tunnel.routes == (
        config.Route(ip_network("192.168.10.0/24"), ip_address("172.21.1.2")),  # the /30's other end
    )


def test_a_gateway_for_everything(etc: Path) -> None:
    text = CLIENT.replace('["172.21.1.2/30"]', '["172.21.1.2/30", "fd21::2/127"]')
    own = 'default_route = true\nkill_switch = true\ndns = ["172.21.1.1"]\ndns_search = ["office.example"]\n'
    tunnel = config.load_client(_file(etc, text.replace("default_route = false\n", own))).tunnel
    assert (tunnel.default_route, tunnel.kill_switch) == (True, True)
    assert (tunnel.dns, tunnel.dns_search) == ((ip_address("172.21.1.1"),), ("office.example",))
    assert tunnel.default_routes == (
        config.Route(ip_network("0.0.0.0/0"), ip_address("172.21.1.1")),
        config.Route(ip_network("::/0"), ip_address("fd21::3")),
    )


def test_the_other_end_is_named_where_it_does_not_follow(etc: Path) -> None:
    own = '["172.21.1.2/24", "fd21::2/64"]\npeer = ["172.21.1.1", "fd21::1"]\nroutes = ["10.0.0.0/8"]'
    text = CLIENT.replace('["172.21.1.2/30"]', own).replace("default_route = false", "default_route = true")
    tunnel = config.load_client(_file(etc, text)).tunnel
    assert [str(route.gateway) for route in (*tunnel.routes, *tunnel.default_routes)] == [
        "172.21.1.1", "172.21.1.1", "fd21::1",
    ]  # fmt: skip


def test_a_router_at_either_end(etc: Path) -> None:
    own = "forward = true\nmasquerade = true\nclamp_mss = false\n"
    client = config.load_client(_file(etc, CLIENT.replace("default_route = false\n", own))).tunnel
    server = config.load_server(_file(etc, SERVER.replace("[client.tunnel]\n", f"[client.tunnel]\n{own}")))
    for tunnel in (client, server.clients[0].tunnel):
        assert (tunnel.forward, tunnel.masquerade, tunnel.clamp_mss) == (True, True, False)
    refused = SERVER.replace("[client.tunnel]\n", "[client.tunnel]\ndefault_route = true\n")
    assert _errors(_file(etc, refused))[0].startswith("client[0].tunnel.default_route: unknown key")


def test_load_tells_the_kinds_apart(etc: Path) -> None:
    assert isinstance(config.load(_file(etc, CLIENT)), config.ClientConfig)
    assert isinstance(config.load(_file(etc, SERVER)), config.ServerConfig)
    without_listen = "\n".join(line for line in SERVER.splitlines() if not line.startswith("listen"))
    loaded = config.load(_file(etc, without_listen))
    assert isinstance(loaded, config.ServerConfig)
    assert loaded.listen == (("0.0.0.0", 1189), ("::", 1189))


def test_secrets_stay_out_of_reprs(etc: Path) -> None:
    for text in (CLIENT, SERVER):
        shown = repr(config.load(_file(etc, text)))
        for secret in (PRIVATE, PSK):
            assert repr(secret)[2:-1] not in shown
            assert base64.b64encode(secret).decode() not in shown


@pytest.mark.parametrize(
    ("own", "prefix", "peer"),
    [
        ("10.0.0.1/30", "10.9.0.0/16", "10.0.0.2"),
        ("10.0.0.2/30", "10.9.0.0/16", "10.0.0.1"),
        ("10.0.0.0/31", "10.9.0.0/16", "10.0.0.1"),
        ("fd00::1/127", "fd01::/16", "fd00::"),
        ("10.0.0.1/24", "10.9.0.0/16", None),
        ("10.0.0.1/32", "10.9.0.0/16", None),
        ("fd00::1/127", "10.9.0.0/16", None),
    ],
)
def test_a_route_goes_by_the_peer_where_the_subnet_tells_it(
    etc: Path, own: str, prefix: str, peer: str | None
) -> None:
    prefix = prefix.replace("fd01::/16", "fd01::/32")
    text = SERVER.replace("172.21.1.1/30", own).replace("192.168.10.0/24", prefix)
    (client,) = config.load_server(_file(etc, text)).clients
    assert client.tunnel.routes[0].gateway == (None if peer is None else ip_address(peer))


# One broken line each: what replaces what in CLIENT, the place named, what the finding must contain.
BROKEN = [
    (
        'up = "500kbit"',
        'up = "6 mbit"',
        'uplink[0].up = "6 mbit"',
        'not a rate; accepted: a rate such as "500kbit"',
    ),
    ('up = "500kbit"', "up = 500000", "uplink[0].up = 500000", "an integer, not a string"),
    ('up = "500kbit"', 'up = "0kbit"', 'uplink[0].up = "0kbit"', "out of range"),
    (
        'up = "500kbit"',
        'upp = "500kbit"',
        "uplink[0].upp",
        "unknown key (did you mean up?); accepted: auto, name,",
    ),
    ("mtu = 1500", "mtu = 9001", "tunnel.mtu = 9001", "accepted: an integer from 576 to 9000"),
    ("mtu = 1500", "mtu = true", "tunnel.mtu = true", "a boolean, not an integer"),
    ("mtu = 1500", 'rekey_after = "121s"', 'tunnel.rekey_after = "121s"', 'from "1s" to "120s"'),
    ("mtu = 1500", 'rekey_after = "2m"', 'tunnel.rekey_after = "2m"', "not a duration"),
    ("mtu = 1500", 'routes = ["10.0.0.1/8"]', 'tunnel.routes[0] = "10.0.0.1/8"', 'accepted: "10.0.0.0/8"'),
    ("mtu = 1500", 'routes = ["10.0.0.0/8", "10.0.0.0/8"]', "tunnel.routes[1]", "given twice"),
    (
        '["172.21.1.2/30"]\nmtu = 1500\ndefault_route = false',
        '["172.21.1.2/24"]\ndefault_route = true',
        "tunnel.default_route = true",
        "which address the server has does not follow from 172.21.1.2/24; accepted: networks of two, such "
        'as "172.21.1.2/30" and "fd21::2/127", or tunnel.peer beside it',
    ),
    (
        '["172.21.1.2/30"]\nmtu = 1500\ndefault_route = false',
        '["172.21.1.2/30", "fd00::2/64"]\ndefault_route = true',
        "tunnel.default_route = true",
        "does not follow from 172.21.1.2/30, fd00::2/64",
    ),
    ("mtu = 1500", 'peer = ["172.21.1.2"]', 'tunnel.peer = "172.21.1.2"', "nobody's on this link"),
    ("mtu = 1500", 'peer = ["172.21.1.9"]', 'tunnel.peer = "172.21.1.9"', "nobody's on this link"),
    ("default_route = false", "kill_switch = true", "tunnel.kill_switch = true", "would let nothing pass"),
    ("mtu = 1500", 'dns = ["router"]', 'tunnel.dns[0] = "router"', "not an address"),
    ("mtu = 1500", 'dns_search = ["a.example"]', "tunnel.dns_search", "nobody to ask"),
    (
        "mtu = 1500",
        'dns = ["172.21.1.1"]\ndns_search = ["~."]',
        'tunnel.dns_search[0] = "~."',
        "not a domain",
    ),
    ("mtu = 1500", "forward = 1", "tunnel.forward = 1", "an integer, not a boolean"),
    ("mtu = 1500", 'masquerade = "yes"', 'tunnel.masquerade = "yes"', "not a boolean"),
    ("mtu = 1500", "clamp_mss = 1400", "tunnel.clamp_mss = 1400", "not a boolean"),
    (
        '"adaptive"',
        '"fastest"',
        'tunnel.scheduler = "fastest"',
        'accepted: "adaptive" or "weighted" or "redundant" or "backup"',
    ),
    ("[tunnel]", '[hooks]\nup = "/bin/true"\n[tunnel]', 'hooks.up = "/bin/true"', "a string, not a list"),
    ("[tunnel]", "[hooks]\nup = []\n[tunnel]", "hooks.up = []", "names no program"),
    ("[tunnel]", '[hooks]\nup = ["a", 1]\n[tunnel]', "hooks.up", "an integer, not a string"),
    ("[tunnel]", '[hooks]\nlink-up = ["a"]\n[tunnel]', "hooks.link-up", "did you mean link_up?"),
    ("[tunnel]", '[hooks]\ntimeout = "1h"\n[tunnel]', 'hooks.timeout = "1h"', "not a duration"),
    ("[tunnel]", 'hooks = "up"\n[tunnel]', 'hooks = "up"', "not a table"),
    ('name = "dsl"', 'name = "dsl"\ntier = 8', "uplink[0].tier = 8", "out of range"),
    ('name = "dsl"', 'name = "dsl"\ntier = -1', "uplink[0].tier = -1", "out of range"),
    ('name = "dsl"', 'name = "dsl"\nmetered = "yes"', 'uplink[0].metered = "yes"', "not a boolean"),
    ('"bond0"', '"bond0123456789ab"', "tunnel.interface", "16 characters long"),
    ('"bond0"', '"bo/nd"', "tunnel.interface", "no interface name has"),
    ('"bond0"', '"server"', "tunnel.interface", "names the server's control socket"),
    ('interface = "bond0"', "", "tunnel.interface", "missing; accepted: an interface name"),
    ('"172.21.1.2/30"', '"172.21.1.2"', "tunnel.address[0]", "no prefix length"),
    ('"172.21.1.2/30"', '"172.21.1.0/30"', "tunnel.address[0]", "the network's own address"),
    ('["172.21.1.2/30"]', "[]", "tunnel.address = []", "empty; accepted: at least one"),
    ('["172.21.1.2/30"]', '"172.21.1.2/30"', "tunnel.address", "not a list"),
    (
        '["172.21.1.2/30"]\nmtu = 1500',
        '["fd00::2/64"]\nmtu = 1279',
        "tunnel.mtu = 1279",
        "too small for IPv6",
    ),
    ("198.51.100.1:1189", "198.51.100.1", "server[0].endpoints[0]", "no valid port"),
    ("198.51.100.1:1189", "198.51.100.1:65536", "server[0].endpoints[0]", "no valid port"),
    ("198.51.100.1:1189", "2001:db8::1:1189", "server[0].endpoints[0]", "goes in brackets"),
    ("198.51.100.1:1189", "300.51.100.1:1189", "server[0].endpoints[0]", "neither an address nor"),
    (PUBLIC, "c2hvcnQ=", 'server[0].public_key = "c2hvcnQ="', "5 bytes long"),
    ('"client.key"', '"absent.key"', "private_key_file", "cannot be read: No such file"),
    ('interface = "ppp0"', "", "uplink[0].interface", "missing, and so is source"),
    ('interface = "ppp0"', 'source = "10.0.0.256"', "uplink[0].source", "not an address"),
    ('interface = "ppp0"', 'source = "10.0.0.2"\ngateway = "fe80::1"', "uplink[0].gateway", "another family"),
    (
        'interface = "ppp0"',
        'interface = "ppp0"\ntable = 254',
        "uplink[0].table = 254",
        "1 to 252 or from 256",
    ),
    (
        'interface = "ppp0"',
        'interface = "ppp0"\ntable = "vpn1189"',
        'uplink[0].table = "vpn1189"',
        "no such name there; accepted: an integer from 1 to 252 or from 256 to 4294967295, or a name out of "
        "/etc/iproute2/rt_tables",
    ),
    ('interface = "ppp0"', 'interface = "ppp0"\ntable = true', "uplink[0].table = true", "a boolean"),
    ('interface = "ppp0"', "auto = true\nmark = 7", "uplink[0].mark = 7", "every interface has its own"),
    ('interface = "ppp0"', 'auto = true\ninterface = "ppp0"', "uplink[0].interface", "auto = true"),
    ('interface = "ppp0"', 'auto = "yes"', 'uplink[0].auto = "yes"', "not a boolean"),
    ('interface = "ppp0"', 'auto = true\nexclude = "eth0"', "uplink[0].exclude", "not a list"),
    (
        'interface = "ppp0"',
        'auto = true\nexclude = ["eth/0"]',
        "uplink[0].exclude[0]",
        "no interface name has",
    ),
    (
        'interface = "ppp0"',
        'interface = "ppp0"\ninclude = ["eth*"]',
        'uplink[0].include = ["eth*"]',
        "says what auto takes; accepted: auto = true beside it",
    ),
    ('interface = "ppp0"', 'interface = "ppp0"\nmark = 0', "uplink[0].mark = 0", "out of range"),
    (
        "[[uplink]]",
        "[uplink]",
        "uplink = a table",
        "not a list of tables; accepted: [[uplink]] 1 to 16 times",
    ),
    ("[tunnel]", "[tunel]", "tunel", "unknown key (did you mean tunnel?)"),
    ('name = "dsl"', 'name = "d\\nsl"', 'uplink[0].name = "d\\nsl"', "control character"),
    ('name = "dsl"', f'name = "{"é" * 17}"', "uplink[0].name", "too long"),
]


@pytest.mark.parametrize(("good", "bad", "place", "told"), BROKEN)
def test_one_mistake_is_named(etc: Path, good: str, bad: str, place: str, told: str) -> None:
    assert good in CLIENT
    lines = _errors(_file(etc, CLIENT.replace(good, bad, 1)))
    matching = [line for line in lines if line.startswith(place) and told in line]
    assert len(matching) == 1, lines
    assert "; accepted: " in matching[0]


def test_every_mistake_is_reported_at_once(etc: Path) -> None:
    text = CLIENT + "\ncolour = 1\n"
    for good, bad in (("500kbit", "6 mbit"), ("mtu = 1500", "mtu = 9001"), (PUBLIC, "c2hvcnQ=")):
        text = text.replace(good, bad)
    (etc / "office.psk").write_text("short", encoding="ascii")
    places = [line.split(" = ")[0].split(":")[0] for line in _errors(_file(etc, text))]
    assert sorted(places) == [
        "server[0].preshared_key_file",
        "server[0].public_key",
        "tunnel.mtu",
        "uplink[0].colour",
        "uplink[0].up",
    ]


SECOND = '\n[[uplink]]\nname = "lte"\ninterface = "wwan0"\n'


def test_repeated_names_tables_and_marks(etc: Path) -> None:
    text = CLIENT + "table = 100\nmark = 7\n" + SECOND.replace("lte", "dsl") + "table = 100\nmark = 7\n"
    lines = _errors(_file(etc, text))
    assert [line.split(":")[0] for line in lines] == [
        'uplink[1].name = "dsl"',
        "uplink[1].table = 100",
        "uplink[1].mark = 7",
    ]


def test_hooks_of_either_end(etc: Path) -> None:
    assert config.load_client(_file(etc, CLIENT)).hooks == config.Hooks()
    hooks = '[hooks]\nlink_up = ["/bin/echo", "a b"]\ntimeout = "500ms"\n'
    wanted = config.Hooks(link_up=("/bin/echo", "a b"), timeout_s=0.5)
    assert config.load_client(_file(etc, CLIENT + hooks)).hooks == wanted
    assert config.load_server(_file(etc, SERVER + hooks)).hooks == wanted


def test_automatic_uplinks(etc: Path) -> None:
    text = CLIENT.replace('name = "dsl"\ninterface = "ppp0"', "auto = true")
    text += """
        [[uplink]]
        name = "sticks"
        auto = true
        include = ["wwan*", "usb?"]
        exclude = ["usb9"]
        metered = true
        """
    every, sticks = config.load_client(_file(etc, text)).uplinks
    assert (every.name, every.auto, every.include, every.exclude) == ("auto", True, ("*",), ("bond0",))
    assert every.up_bps == 500_000
    assert sticks == config.Uplink(
        name="sticks", auto=True, include=("wwan*", "usb?"), exclude=("usb9", "bond0"), tier=1
    )
    twice = _file(etc, text.replace('name = "sticks"', ""))
    assert len(config.load_client(twice).uplinks) == 2  # each is named after its interface


def test_a_table_may_be_called_as_iproute2_calls_it(etc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = etc / "rt_tables"
    names.write_text("# comment\n255 local\n1189\tvpn1189 # dsl\n1190 vpn1189\nnonsense\n")
    monkeypatch.setattr(values, "RT_TABLES", (str(names),))
    text = CLIENT.replace('interface = "ppp0"', 'interface = "ppp0"\ntable = "vpn1189"')
    assert config.load_client(_file(etc, text)).uplinks[0].table == 1189
    (refused,) = _errors(_file(etc, text.replace("vpn1189", "local")))
    assert "out of range" in refused


def test_weighted_needs_the_speeds_of_several_lines(etc: Path) -> None:
    weighted = CLIENT.replace("adaptive", "weighted")
    lines = _errors(_file(etc, weighted + SECOND))
    assert [line.split(":")[0] for line in lines] == ["uplink[1].up", "uplink[1].down"]
    config.load(_file(etc, weighted + SECOND + 'up = "1mbit"\ndown = "10mbit"\n'))
    config.load(
        _file(etc, weighted.replace('up = "500kbit"\ndown = "6mbit"\n', ""))
    )  # one line: nothing to share


@pytest.mark.parametrize(
    ("given", "tier"),
    [
        ("", 0),
        ("metered = false", 0),
        ("metered = true", 1),
        ("tier = 7", 7),
        ("metered = true\ntier = 0", 0),
        ("metered = true\ntier = 3", 3),
    ],
)
def test_a_metered_line_is_of_the_second_tier_unless_one_is_given(etc: Path, given: str, tier: int) -> None:
    loaded = config.load_client(_file(etc, CLIENT.replace('name = "dsl"', f'name = "dsl"\n{given}')))
    assert [uplink.tier for uplink in loaded.uplinks] == [tier]


@pytest.mark.parametrize("name", ["adaptive", "redundant", "backup"])
def test_all_schedulers_but_weighted_learn_the_speeds(etc: Path, name: str) -> None:
    text = CLIENT.replace('scheduler = "adaptive"', f'scheduler = "{name}"') + SECOND
    assert config.load_client(_file(etc, text)).tunnel.scheduler == name


def test_repeated_clients(etc: Path) -> None:
    tables = SERVER[SERVER.index("[[client]]") :]
    lines = _errors(_file(etc, SERVER + tables))
    assert [line.split(" = ")[0] for line in lines] == [
        "client[1].name",
        "client[1].public_key",
        "client[1].tunnel.interface",
    ]
    other = tables.replace(PUBLIC, PUBLIC_2).replace("office", "farm").replace("farm.psk", "office.psk")
    assert len(config.load_server(_file(etc, SERVER + other)).clients) == 2


def test_workers(etc: Path) -> None:
    assert config.load_server(_file(etc, SERVER)).workers == 1
    for workers in (1, 2, 64):
        assert config.load_server(_file(etc, f"workers = {workers}" + SERVER)).workers == workers


@pytest.mark.parametrize(
    ("value", "wrong"),
    [
        ("0", "out of range"),
        ("65", "out of range"),
        ("-1", "out of range"),
        ("true", "a boolean, not an integer"),
        ('"2"', "a string, not an integer"),
        ("1.5", "a float, not an integer"),
    ],
)
def test_workers_out_of_bounds(etc: Path, value: str, wrong: str) -> None:
    found = _errors(_file(etc, f"workers = {value}" + SERVER.replace("172.21.1.1/30", "172.21.1.1")))
    assert found[0] == f"workers = {value}: {wrong}; accepted: an integer from 1 to 64"
    assert found[1].startswith("client[0].tunnel.address[0]")  # and what else is wrong


def test_a_client_has_no_workers(etc: Path) -> None:
    (line,) = _errors(_file(etc, "workers = 2" + CLIENT))
    assert line.startswith("workers: unknown key")


def test_a_client_has_no_rekey_after_of_its_own_at_the_server(etc: Path) -> None:
    (line,) = _errors(_file(etc, SERVER + 'rekey_after = "5s"\n'))
    assert line.startswith("client[0].tunnel.rekey_after: unknown key")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o601])
@pytest.mark.parametrize("name", ["client.key", "office.psk"])
def test_a_secret_that_others_can_reach_is_worth_a_warning(
    etc: Path, name: str, mode: int, caplog: pytest.LogCaptureFixture
) -> None:
    (etc / name).chmod(mode)
    config.load_client(_file(etc, CLIENT))
    (message,) = caplog.messages
    assert message == f"{etc / name}: others can read this secret (mode {mode:04o}); chmod 600 {etc / name}"


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "0 bytes long"),
        (b"\xff\xfe", "not base64"),
        (b"not base64!", "not base64"),
        (b"AAAA", "3 bytes long"),
    ],
)
def test_a_malformed_key_file(etc: Path, content: bytes, told: str) -> None:
    (etc / "client.key").write_bytes(content)
    (line,) = _errors(_file(etc, CLIENT))
    assert line.startswith('private_key_file = "client.key": ')
    assert told in line


def test_no_file_and_no_toml(etc: Path) -> None:
    assert _errors(etc / "absent.toml") == ["cannot be read: No such file or directory"]
    (line,) = _errors(_file(etc, "a = 1\nb = = 2\n"))
    assert line.startswith("not TOML: ")
    assert "line 2" in line
    path = etc / "binary.toml"
    path.write_bytes(b"\xff\xff")
    assert "not UTF-8" in _errors(path)[0]


def test_an_absolute_key_path(etc: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("keys") / "k"
    _write_secret(elsewhere, PSK)
    assert config.load_client(_file(etc, CLIENT.replace("client.key", str(elsewhere)))).private_key == PSK


@pytest.mark.parametrize(
    ("text", "bps"),
    [("500kbit", 500_000), ("6mbit", 6_000_000), ("1gbit", 10**9), ("1.5mbit", 1_500_000), ("9600bit", 9600)],
)
def test_rates(text: str, bps: int) -> None:
    assert values.rate(text) == bps


@pytest.mark.parametrize(("text", "seconds"), [("30ms", 0.03), ("2s", 2.0), ("1.5s", 1.5)])
def test_durations(text: str, seconds: float) -> None:
    assert values.duration(0.001, 10)(text) == pytest.approx(seconds)


_PARSERS = [
    values.rate,
    values.duration(0.01, 10),
    values.integer((1, 5)),
    values.boolean,
    values.choice("a", "b"),
    values.name,
    values.ifname,
    values.address,
    values.interface_address,
    values.prefix,
    values.endpoint,
    values.listen_endpoint,
    values.key,
]
_TOML = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.lists(st.integers()), st.datetimes(),
    st.from_regex(r"[0-9a-f.:\[\]/%-]{0,40}"), st.from_regex(r"\d{1,400}(\.\d+)?(kbit|gbit|s|ms)?"),
)  # fmt: skip


@given(value=_TOML)
def test_a_parser_takes_a_value_or_says_why_not(value: object) -> None:
    for parse in _PARSERS:
        with contextlib.suppress(values.UnacceptableError):  # and nothing else
            parse(value)


@given(text=st.text(max_size=200))
def test_any_text_loads_or_is_refused_with_findings(
    text: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.toml"
    path.write_text(text, encoding="utf-8", errors="replace")
    with pytest.raises(ConfigError) as caught:  # no text this short is a whole configuration
        config.load(path)
    assert caught.value.errors
