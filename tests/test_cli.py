"""The commands as a caller sees them: output, exit code, and nothing imported or changed needlessly."""

import base64
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bondvpn import __version__, cli

Run = Callable[..., int]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs the command line in this process; gives its exit code."""

    def command(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["bondvpn", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        code = ended.value.code
        return code if isinstance(code, int) else int(bool(code))

    return command


@pytest.fixture
def runtime_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "run"
    path.mkdir()
    monkeypatch.setenv("BONDVPN_RUNTIME_DIR", str(path))
    return path


@pytest.fixture
def client_toml(tmp_path: Path) -> Path:
    key = base64.b64encode(bytes(32)).decode()
    secret = tmp_path / "client.key"
    secret.write_text(key)
    secret.chmod(0o600)
    path = tmp_path / "client.toml"
    path.write_text(
        f"""
        private_key_file = "client.key"
        tunnel = {{ interface = "bond0", address = ["172.21.1.2/30"] }}
        server = [{{ public_key = "{key}", endpoints = ["198.51.100.1:1189"] }}]
        uplink = [{{ name = "a", interface = "eth1" }}, {{ name = "b", interface = "eth2" }}]
        """
    )
    return path


def _process(code: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code, *arguments],
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def _answer(path: Path, reply: bytes, command: str) -> threading.Thread:
    """A process on a control socket that answers one request."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path))
    listener.listen(1)

    def serve() -> None:
        with listener, listener.accept()[0] as connection:
            assert json.loads(connection.makefile("rb").readline()) == {"command": command}
            connection.sendall(reply)

    thread = threading.Thread(target=serve)
    thread.start()
    return thread


@pytest.fixture
def processes(runtime_dir: Path) -> Iterator[Callable[..., None]]:
    threads: list[threading.Thread] = []
    yield lambda name, reply, command="status": threads.append(
        _answer(runtime_dir / f"{name}.sock", reply, command)
    )
    for thread in threads:
        thread.join(timeout=10)
        assert not thread.is_alive()


def test_keys(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("genkey") == 0
    private = base64.b64decode(capsys.readouterr().out)
    assert len(private) == 32
    assert (private[0] & 7, private[31] >> 6) == (0, 1)  # RFC 7748 section 5
    assert run("genpsk") == 0
    assert len(base64.b64decode(capsys.readouterr().out)) == 32


class _Text:
    def __init__(self, text: str) -> None:
        self._text = text

    def read(self, _most: int) -> str:
        return self._text


def test_pubkey_of_rfc_7748_section_6_1(
    run: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    private = bytes.fromhex("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a")
    public = bytes.fromhex("8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a")
    monkeypatch.setattr(sys, "stdin", _Text(base64.b64encode(private).decode() + "\n"))
    assert run("pubkey") == 0
    assert base64.b64decode(capsys.readouterr().out) == public


def test_version(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--version") == 0
    assert capsys.readouterr().out == f"bondvpn {__version__}\n"


def test_pubkey_of_nonsense(
    run: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", _Text("nonsense"))
    assert run("pubkey") == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert "no private key" in output.err


def test_a_private_key_in_a_file_is_its_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "client.key"
    with path.open("wb") as out:
        path.chmod(0o644)
        subprocess.run([sys.executable, "-m", "bondvpn", "genkey"], stdout=out, check=True, timeout=60)
    assert path.stat().st_mode & 0o777 == 0o600


def test_check(run: Run, capsys: pytest.CaptureFixture[str], client_toml: Path) -> None:
    assert run("check", str(client_toml)) == 0
    assert capsys.readouterr().out == f"{client_toml}: client configuration, 2 uplinks, ok\n"
    good = client_toml.read_text()
    client_toml.write_text(good.replace('name = "b", interface = "eth2"', "auto = true"))
    assert run("check", str(client_toml)) == 0
    assert "client configuration, 1 uplink and those it will find, ok" in capsys.readouterr().out
    client_toml.write_text(good.replace("eth1", "eth/1").replace("198.51.100.1:1189", "x"))
    assert run("check", str(client_toml)) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert [line.split(" = ")[0] for line in output.err.splitlines()] == [
        f"{client_toml}: server[0].endpoints[0]",
        f"{client_toml}: uplink[0].interface",
    ]


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("nope",),
        ("check",),
        ("client", "--log-level", "loud"),
        ("status", "extra"),
        ("--bogus", "genkey"),
    ],
)
def test_bad_usage(run: Run, arguments: tuple[str, ...]) -> None:
    assert run(*arguments) == 2


@pytest.mark.parametrize("command", ["client", "server", "check", "down", "doctor"])
def test_a_bad_configuration_is_exit_2_without_traceback(
    run: Run, capsys: pytest.CaptureFixture[str], command: str, tmp_path: Path
) -> None:
    path = str(tmp_path / "absent.toml")
    arguments = (command, path) if command == "check" else (command, "--config", path)
    assert run(*arguments) == 2
    assert capsys.readouterr().err == f"{path}: cannot be read: No such file or directory\n"


RUNTIME = """
import logging, sys, types
fake = types.ModuleType("bondvpn.runtime.client")
def run_client(config):
    for level in ("debug", "info", "warning", "error"):
        getattr(logging.getLogger("bondvpn.test"), level)(config.tunnel.interface)
    return 1
fake.run_client = run_client
sys.modules["bondvpn.runtime.client"] = fake
from bondvpn.cli import main
main()
"""


@pytest.mark.parametrize(
    ("before", "after", "lines"),
    [((), (), 3), (("--log-level", "warning"), (), 2), ((), ("--log-level", "debug"), 4),
     (("--log-level", "debug"), ("--log-level", "error"), 1)],
)  # fmt: skip
def test_log_level_stands_before_or_after_the_command(
    client_toml: Path, before: tuple[str, ...], after: tuple[str, ...], lines: int
) -> None:
    done = _process(RUNTIME, *before, "client", "--config", str(client_toml), *after)
    assert done.returncode == 1, done.stderr
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == lines
    assert done.stderr.endswith("ERROR bondvpn.test: bond0\n")
    assert done.stderr[:2] == "20"  # the year: stderr is no journal


def test_no_time_in_the_journals_lines(client_toml: Path) -> None:
    script = (
        "import os; here = os.fstat(2); os.environ['JOURNAL_STREAM'] = f'{here.st_dev}:{here.st_ino}'\n"
        + RUNTIME
    )
    done = _process(script, "client", "--config", str(client_toml))
    assert done.stderr.splitlines()[0] == "INFO bondvpn.test: bond0"


def test_the_collector_leaves_alone_what_was_imported_for_good() -> None:
    script = (
        "import gc\nfrom bondvpn.cli import _imported_for_good\n"
        "with _imported_for_good():\n    print(gc.isenabled())\n"
        "print(gc.isenabled(), gc.get_freeze_count() > 0)"
    )
    assert _process(script).stdout.split() == ["False", "True", "True"]


def test_genkey_imports_little() -> None:
    heavy = ("numpy", "pyroute2", "uvloop", "cryptography", "bondvpn.runtime")
    script = (
        "import sys\nfrom bondvpn.cli import main\ntry:\n    main()\nexcept SystemExit:\n    pass\n"
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    assert _process(script, "genkey").stdout.splitlines()[1] == "[]"


def test_status_when_none_runs(run: Run, capsys: pytest.CaptureFixture[str], runtime_dir: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as dead:
        dead.bind(str(runtime_dir / "bond0.sock"))  # left by a killed process: nobody listens
    for arguments in (("status",), ("status", "--json"), ("status", "--interface", "bond0")):
        assert run(*arguments) == 1
        output = capsys.readouterr()
        assert output.out == ""
        assert "is running" in output.err


def test_status_of_one_is_an_object_and_of_several_a_list(
    run: Run, capsys: pytest.CaptureFixture[str], processes: Callable[[str, bytes], None], runtime_dir: Path
) -> None:
    processes("bond0", b'{"role": "client", "interface": "bond0"}\n')
    assert run("status", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"role": "client", "interface": "bond0"}
    (runtime_dir / "bond0.sock").unlink()
    processes("bond0", b'{"role": "client"}\n')
    processes("server", b'{"role": "server"}\n')
    assert run("status", "--json") == 0
    assert json.loads(capsys.readouterr().out) == [{"role": "client"}, {"role": "server"}]


@pytest.mark.parametrize("reply", [b"", b"not json\n", b"[]\n", b'{"error": "busy"}\n'])
def test_status_of_a_process_that_answers_nonsense(
    run: Run, capsys: pytest.CaptureFixture[str], processes: Callable[[str, bytes], None], reply: bytes
) -> None:
    processes("bond0", reply)
    assert run("status", "--json") == 1
    output = capsys.readouterr()
    assert output.out == ""
    assert "bond0.sock: " in output.err


@pytest.mark.parametrize(
    ("reply", "code", "out", "err"),
    [
        ({"applied": ["uplink a: up"], "restart": ["tunnel.mtu"], "faults": []}, 0,
         "bond0: applied uplink a: up\nbond0: needs a restart: tunnel.mtu\n", ""),
        ({"applied": [], "restart": [], "faults": []}, 0, "bond0: the file is as it was\n", ""),
        ({"applied": ["tunnel.routes"], "restart": [], "faults": ["no way"]}, 1,
         "bond0: applied tunnel.routes\n", "no way\n"),
        ({"errors": ["client.toml: wrong"], "exit_code": 2}, 2, "bond0: nothing changed\n",
         "client.toml: wrong\n"),
    ],
)  # fmt: skip
def test_reload(
    run: Run, capsys: pytest.CaptureFixture[str], processes: Callable[..., None],
    reply: dict[str, object], code: int, out: str, err: str,
) -> None:  # fmt: skip
    processes("bond0", json.dumps(reply).encode() + b"\n", "reload")
    assert run("reload") == code
    assert capsys.readouterr() == (out, err)


def test_reload_when_none_runs(run: Run, capsys: pytest.CaptureFixture[str], runtime_dir: Path) -> None:
    assert run("reload") == 1
    assert "is running" in capsys.readouterr().err


def test_down_with_nothing_to_do(run: Run, capsys: pytest.CaptureFixture[str], runtime_dir: Path) -> None:
    assert list(runtime_dir.iterdir()) == []
    assert run("down") == 0
    assert capsys.readouterr().out == "nothing to undo\n"
