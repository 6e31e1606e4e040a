"""The server by each line: by the running process's own account, or by trying."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from bondvpn.config import ClientConfig
from bondvpn.doctor.finding import Finding
from bondvpn.runtime.trial import Tried

PATH_MTU_MIN_BYTES = 1280  # RFC 8200 section 5; below it a line is broken, not narrow
SPEED_SLACK = 1.1  # configured over measured: half a percent already fills the modem's queue with `weighted`


def of_status(status: Mapping[str, Any]) -> list[Tried]:
    """What a client that runs says of its lines."""
    tunnel = status["tunnels"][0]
    return [
        Tried(
            uplink=link["name"],
            interface=link.get("interface"),
            endpoint=link.get("path") or "",
            reached=link["state"] == "active",
            reason=link["reason"] or ("" if link["state"] == "active" else link["state"]),
            rtt_ms=link["rtt_ms"] if link["state"] == "active" else None,
            path_mtu=link["path_mtu"] if link["state"] == "active" else None,
            up_bps=link["learned_bps"],
        )
        for link in tunnel["links"]
    ]


def findings(tried: Sequence[Tried], settings: ClientConfig, *, running: bool) -> Iterator[Finding]:
    """What is wrong with them."""
    endpoints = list(dict.fromkeys(one.endpoint for one in tried))
    for endpoint in endpoints:
        lines = [one for one in tried if one.endpoint == endpoint]
        if not running and not any(one.reached for one in lines):
            yield _nobody(endpoint, lines)
            continue
        for one in lines:
            yield _line(one)
            if one.reached and not running and settings.tunnel.scheduler == "weighted":
                yield from _speed(one, settings)


def _nobody(endpoint: str, lines: Sequence[Tried]) -> Finding:
    names = ", ".join(one.uplink for one in lines) or "no line"
    port = endpoint.rpartition(":")[2]
    mend = (
        f"on the server: bondvpn doctor; ss -uln 'sport = :{port}'; let UDP port {port} through there. "
        "`bondvpn pubkey` of each end's key is the other's public_key, and the preshared keys are the same"
    )
    return Finding("reach", endpoint, f"no answer by {names}", mend)


def _line(one: Tried) -> Finding:
    subject = f"{one.uplink} to {one.endpoint}" if one.endpoint else one.uplink
    if not one.reached:
        by = f" -I {one.interface}" if one.interface else ""
        host = one.endpoint.rpartition(":")[0].strip("[]") or "SERVER"
        return Finding(
            "reach", subject, one.reason, f"ping{by} {host}  # others get through: look at this line"
        )
    if one.reason:  # active, but it carries nothing
        return Finding(
            "reach", subject, one.reason, "bondvpn status  # see docs/operations.md, demoted lines"
        )
    shown = [f"RTT {one.rtt_ms} ms" if one.rtt_ms is not None else "no RTT yet", f"MTU {one.path_mtu}"]
    if one.up_bps:
        shown.append(f"{one.up_bps / 1e6:.3g} Mbit/s up")
    if one.path_mtu is not None and one.path_mtu < PATH_MTU_MIN_BYTES:
        mend = f"tracepath -n{'6' if one.endpoint.startswith('[') else ''} {one.endpoint.rpartition(':')[0]}"
        return Finding("MTU", subject, f"only {one.path_mtu} bytes pass", mend)
    return Finding("reach", subject, ", ".join(shown))


def _speed(one: Tried, settings: ClientConfig) -> Iterator[Finding]:
    uplink = next((line for line in settings.uplinks if line.name == one.uplink), None)
    if uplink is None or uplink.up_bps is None or not one.up_bps:
        return
    if uplink.up_bps > one.up_bps * SPEED_SLACK:
        found = f"up = {uplink.up_bps / 1e6:.3g} Mbit/s is configured, {one.up_bps / 1e6:.3g} arrive"
        mend = f'in {settings.path}: up = "{one.up_bps // 1000}kbit", or scheduler = "adaptive"'
        yield Finding("speed", one.uplink, found, mend)


def as_objects(tried: Sequence[Tried]) -> list[dict[str, Any]]:
    """For JSON."""
    return [asdict(one) for one in tried]
