"""The status tables: everything the process says is there, and nothing it leaves out matters."""

import io
import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from bondvpn.ui import status

LINK: dict[str, Any] = {
    "name": "dsl", "state": "active", "rtt_ms": 30.14, "path_mtu": 1492, "up_bps": 500_000, "down_bps": None,
    "tx_bps": 12_345, "rx_bps": 5.9e6, "tx_bytes": 999, "rx_bytes": 12_000_000_000, "rx_lost": 17,
    "queue_ms": 4.2, "learned_bps": 48.6e6, "reason": "9 % loss",
}  # fmt: skip
TUNNEL: dict[str, Any] = {
    "name": "office", "interface": "bond0", "state": "up", "since_s": 75.0, "cipher": "AES-256-GCM",
    "scheduler": "weighted", "handshake_age_s": 3700.0, "links": [LINK], "drops": {"replay": 3, "auth": 0},
}  # fmt: skip
STATUS: dict[str, Any] = {
    "role": "client", "interface": "bond0", "version": "0.1.0", "uptime_s": 12.34, "tunnels": [TUNNEL],
    "drops": {"mac1": 5},
}  # fmt: skip


def _drawn(*found: Any) -> str:
    out = io.StringIO()
    Console(file=out, width=200).print(status.render(found))
    return out.getvalue()


def test_everything_is_shown() -> None:
    text = _drawn(STATUS)
    for shown in (
        "client", "bond0", "0.1.0", "12.3 s", "office", "1 min 15 s", "AES-256-GCM", "weighted", "1 h 1 min",
        "dsl", "active", "30.1 ms", "1492", "500 kbit/s", "learned", "12.3 kbit/s", "5.9 Mbit/s", "999 B",
        "12 GB", "17", "9 % loss", "4 ms", "replay 3", "mac1 5",
    ):  # fmt: skip
        assert shown in text, shown
    assert "auth" not in text


@pytest.mark.parametrize(("role", "shown"), [("client", "≈ 48.6 Mbit/s"), ("server", "learned")])
def test_what_was_learned_stands_where_no_speed_is_configured(role: str, shown: str) -> None:
    """Each end knows it of the direction in which it sends, and a configured speed goes before."""
    text = _drawn({**STATUS, "role": role, "tunnels": [{**TUNNEL, "links": [{**LINK, "up_bps": None}]}]})
    assert shown in text
    text = _drawn({**STATUS, "role": role})
    assert "500 kbit/s" in text
    assert ("≈ 48.6 Mbit/s" in text) is (role == "server")


def test_any_key_may_be_absent_or_null() -> None:
    for level, keys in ((STATUS, STATUS), (TUNNEL, TUNNEL), (LINK, LINK)):
        for key, gone in itertools.product(keys, (True, False)):
            less = {k: (None if k == key else v) for k, v in level.items() if not (gone and k == key)}
            whole = {"status": STATUS, "tunnel": TUNNEL, "link": LINK}
            whole["link" if level is LINK else "tunnel" if level is TUNNEL else "status"] = less
            tunnel = whole["tunnel"] if level is TUNNEL else {**TUNNEL, "links": [whole["link"]]}
            assert _drawn(less if level is STATUS else {**STATUS, "tunnels": [tunnel]})
    assert _drawn({})


def test_markup_in_names_is_not_obeyed() -> None:
    assert "[red]dsl[/]" in _drawn(
        {**STATUS, "tunnels": [{**TUNNEL, "links": [{**LINK, "name": "[red]dsl[/]"}]}]}
    )
    assert "[/nothing]" in _drawn({**STATUS, "tunnels": [{**TUNNEL, "name": "[/nothing]"}]})


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0.0 s"),
        (59.9, "59.9 s"),
        (250, "4 min 10 s"),
        (7500, "2 h 5 min"),
        (273_600, "3 d 4 h"),
        (None, "-"),
    ],
)
def test_spans(seconds: float | None, words: str) -> None:
    assert status.span(seconds) == words


@given(value=st.one_of(st.none(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text()))
def test_any_value_draws(value: Any) -> None:
    assert _drawn({**STATUS, "tunnels": [{**TUNNEL, "links": [dict.fromkeys(LINK, value)]}]})


def test_workers_are_counted_and_those_that_do_not_answer_named() -> None:
    workers = [{"number": 0, "answers": True}, {"number": 1, "answers": False}]
    text = _drawn({**STATUS, "tunnels": [{**TUNNEL, "worker": 1}], "workers": workers})
    assert "2 workers" in text
    assert "worker 1 does not answer" in text
    assert "worker 0 does not answer" not in text
    assert "ago  ·  worker 1" in text
    assert "worker" not in _drawn(STATUS)
