"""The parts of several workers as one status object."""

from typing import Any

import pytest

from bondvpn.config import Client, Tunnel
from bondvpn.runtime import status

CLIENTS = [
    Client(name=f"client{i}", public_key=bytes([i]) * 32, tunnel=Tunnel(interface=f"tap{i}", address=()))
    for i in range(5)
]


def part(number: int, workers: int, **drops: int) -> dict[str, Any]:
    tunnels = [{"name": client.name, "state": "up"} for client in CLIENTS[number::workers]]
    return {"id": 1, "role": "server", "interface": "server", "tunnels": tunnels, "drops": drops}


@pytest.mark.parametrize("workers", [2, 3, 5])
def test_tunnels_stand_in_the_order_of_the_configuration(workers: int) -> None:
    whole = status.merge(CLIENTS, workers, {n: part(n, workers) for n in range(workers)})
    assert [(tunnel["name"], tunnel["worker"]) for tunnel in whole["tunnels"]] == [
        (f"client{i}", i % workers) for i in range(5)
    ]
    assert {tunnel["state"] for tunnel in whole["tunnels"]} == {"up"}
    assert (whole["role"], whole["interface"]) == ("server", "server")


def test_drops_are_added_up() -> None:
    parts = {0: part(0, 2, mac1=3, lane=1), 1: part(1, 2, mac1=4, type=2)}
    assert status.merge(CLIENTS, 2, parts)["drops"] == {"mac1": 7, "lane": 1, "type": 2}


def test_the_clients_of_a_worker_that_does_not_answer_are_there_without_a_session() -> None:
    whole = status.merge(CLIENTS, 2, {1: part(1, 2, mac1=4)})
    assert [tunnel["state"] for tunnel in whole["tunnels"]] == [
        "connecting",
        "up",
        "connecting",
        "up",
        "connecting",
    ]
    assert whole["tunnels"][2] == status.without_session(CLIENTS[2]) | {"worker": 0}
    assert whole["drops"] == {"mac1": 4}
