"""Fixtures of the namespace tests: a lab with bondvpn running in it.

What a test looks at while it runs is in `observe`.
"""

import contextlib
import fcntl
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

from bondvpn.lab.shape import Line
from bondvpn.lab.topology import RUNTIME_DIR, Lab
from bondvpn.lab.tunnel import Configs, Tunnel, write_configs

sys.path.insert(0, str(Path(__file__).parent))  # importmode=importlib does not: for `observe`

# What has the machine to itself: namespaces, kernel sockets, and what is measured by the piece. All else may
# run in several processes at once (make test).
ALONE = ("netns-tests/", "bench/", "tests/lab/", "tests/linux/", "tests/runtime/", "tests/ui/")
LONG = "tests/sim/"

PREFIX = os.environ.get("BONDVPN_TEST_PREFIX", "bvnet")  # another one for a run beside another


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What must be alone comes last, the longest of the others first."""
    items.sort(key=lambda item: (item.nodeid.startswith(ALONE), not item.nodeid.startswith(LONG)))


class Scheduling(LoadScopeScheduling):
    """One process runs all that must be alone, one after the other."""

    def _split_scope(self, nodeid: str) -> str:
        return "alone" if nodeid.startswith(ALONE) else nodeid


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    return Scheduling(config, log)


@dataclass
class Bond:
    """A lab, the configuration of its tunnel, and the tunnel (started unless a test wants to do it)."""

    lab: Lab
    configs: Configs
    tunnel: Tunnel


@pytest.fixture(scope="session")
def _this_machine() -> Iterator[None]:
    """Root, and the only run on this machine: the namespaces' names are the same in every run, so that each
    removes what a killed one left. The kernel drops the lock with its process."""
    if os.geteuid() != 0:
        pytest.skip("needs root and network namespaces")
    RUNTIME_DIR.mkdir(parents=True, exist_ok=True)
    with (RUNTIME_DIR / f"{PREFIX}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def _bond(
    directory: Path, lines: Sequence[Line], prepare: Callable[[Bond], None] | None, start: bool, settings: Any
) -> Iterator[Bond]:
    with contextlib.ExitStack() as stack:
        lab = stack.enter_context(Lab(lines, prefix=PREFIX))
        configs = write_configs(lab, directory, **settings)
        bond = Bond(lab, configs, Tunnel(lab, configs))
        if prepare is not None:
            prepare(bond)
        stack.callback(bond.tunnel.__exit__)
        stack.callback(_show_logs, bond.tunnel)
        if start:
            bond.tunnel.__enter__()
        yield bond


def _show_logs(tunnel: Tunnel) -> None:
    """pytest shows this for tests that failed."""
    for log in sorted(tunnel.root.glob("*.log")):
        print(f"--- {log.stem} ---\n{log.read_text(errors='replace')}")


def _factory(stack: contextlib.ExitStack, directories: Callable[[], Path]) -> Callable[..., Bond]:
    def build(
        lines: Sequence[Line],
        *,
        prepare: Callable[[Bond], None] | None = None,
        start: bool = True,
        **settings: Any,
    ) -> Bond:
        return stack.enter_context(_bond(directories(), lines, prepare, start, settings))

    return build


@pytest.fixture
def bond_over(_this_machine: None, tmp_path: Path) -> Iterator[Callable[..., Bond]]:
    """`bond_over(lines, prepare=None, start=True, **settings)` builds one for this test.

    `settings` as for `lab.tunnel.write_configs`; `prepare` sees the bond before it starts.
    """
    with contextlib.ExitStack() as stack:
        yield _factory(stack, lambda: tmp_path / "etc")


@pytest.fixture(scope="module")
def shared_bond_over(
    _this_machine: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., Bond]]:
    """The same for a module's own fixture, when its tests leave the bond as they found it."""
    with contextlib.ExitStack() as stack:
        yield _factory(stack, lambda: tmp_path_factory.mktemp("etc"))


@pytest.fixture
def premises_with(_this_machine: None) -> Iterator[Callable[[int], Any]]:
    """`premises_with(routers)` builds a `premises.Premises` for this test."""
    from premises import Premises

    with contextlib.ExitStack() as stack:
        yield lambda routers: stack.enter_context(Premises(routers, PREFIX))
