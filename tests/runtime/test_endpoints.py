"""The server's addresses: all endpoints', in order, by family; what does not resolve keeps what it had."""

import asyncio
import logging
import socket
from typing import Any

import pytest

from bondvpn.runtime.endpoints import Endpoints, Target
from bondvpn.values import Endpoint

NAME, FIXED = Endpoint("bond.example", 1189), Endpoint("2001:db8::1", 1190)


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """What the name servers know."""
    known = {"bond.example": ["198.51.100.1", "198.51.100.2"], "2001:db8::1": ["2001:db8::1"]}

    async def getaddrinfo(_loop: Any, host: str, port: int, **_: Any) -> list[Any]:
        if host not in known:
            raise socket.gaierror("unknown")
        families = {address: socket.AF_INET6 if ":" in address else socket.AF_INET for address in known[host]}
        return [(family, socket.SOCK_DGRAM, 17, "", (address, port)) for address, family in families.items()]

    monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", getaddrinfo)
    return known


def test_every_address_of_every_endpoint(names: dict[str, list[str]]) -> None:
    endpoints = Endpoints([NAME, FIXED])
    assert endpoints.targets == []
    asyncio.run(endpoints.resolve())
    first, second, third = endpoints.targets
    assert first == Target(4, ("198.51.100.1", 1189))
    assert third == Target(6, ("2001:db8::1", 1190))
    assert endpoints.reachable([4]) == [first, second]
    assert endpoints.reachable([4, 6]) == [first, second, third]
    assert endpoints.reachable([]) == []


def test_a_name_that_changes_or_fails(names: dict[str, list[str]], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    endpoints = Endpoints([NAME])
    names["bond.example"] = ["198.51.100.3"]
    asyncio.run(endpoints.resolve())
    assert endpoints.targets == [Target(4, ("198.51.100.3", 1189))]
    names.pop("bond.example")
    for _ in range(2):
        asyncio.run(endpoints.resolve())
    assert endpoints.targets == [Target(4, ("198.51.100.3", 1189))]
    assert caplog.messages == ["cannot resolve bond.example: unknown"]
