"""One status object of several workers' parts."""

from collections.abc import Mapping, Sequence
from typing import Any

from bondvpn.config import SERVER_SOCKET, Client


def merge(clients: Sequence[Client], workers: int, parts: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
    """The whole server's, tunnels in configuration order, drops added up.

    `parts`: each worker's own status by its number; the clients of one that is missing have no session.
    Client i is the i // `workers`-th of worker i % `workers`.
    """
    tunnels = []
    for i, client in enumerate(clients):
        worker = i % workers
        tunnel = parts[worker]["tunnels"][i // workers] if worker in parts else without_session(client)
        tunnels.append(tunnel | {"worker": worker})
    drops: dict[str, int] = {}
    for part in parts.values():
        for reason, count in part["drops"].items():
            drops[reason] = drops.get(reason, 0) + count
    return {"role": "server", "interface": SERVER_SOCKET, "tunnels": tunnels, "drops": drops}


def without_session(client: Client) -> dict[str, Any]:
    """What `Tunnel.status` says of a tunnel that has just been made."""
    return {
        "name": client.name,
        "interface": client.tunnel.interface,
        "state": "connecting",
        "since_s": None,
        "cipher": "",
        "scheduler": client.tunnel.scheduler,
        "handshake_age_s": None,
        "chunk_bytes": None,
        "queued_bytes": 0,
        "links": [],
        "tap": {"tx_frames": 0, "rx_frames": 0, "tx_bytes": 0, "rx_bytes": 0},
        "drops": {},
    }
