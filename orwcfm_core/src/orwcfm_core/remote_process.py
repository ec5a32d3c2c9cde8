"""A worker in another interpreter, supervised: started, asked, timed and ended. No torch in here."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import threading
import time
import weakref
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from orwcfm_core.errors import RunError, UserError
from orwcfm_core.plugin import API
from orwcfm_core.worker import PROTOCOL

__all__ = ["Ended", "Environment", "Process"]

_START = 60.0  # seconds for an interpreter to start and to import the light modules
_PATIENCE = 3.0  # seconds for a worker to end by itself
_ERRORS: dict[str, type[UserError] | type[RunError]] = {"UserError": UserError, "RunError": RunError}


class Ended(Exception):
    """The process died, or was ended because it took too long; says how."""


@dataclass(frozen=True)
class Environment:
    """A Python environment.

    Args:
        where: As the user knows it: a folder made by venv, or an interpreter.
    """

    where: str

    @property
    def interpreter(self) -> Path:
        """Its interpreter; a link is not followed, because where it lies is what makes the environment."""
        path = Path(self.where)
        # Unlike those of Path, these take a name that is too long for one that does not exist.
        return path / "bin" / "python" if os.path.isdir(path) else path

    @property
    def usable(self) -> bool:
        """Whether there is something to start."""
        return os.path.isfile(self.interpreter) and os.access(self.interpreter, os.X_OK)


class Process:
    """A worker for one reward.

    Args:
        name: The reward.
        environment: Where it is installed.
        memory: Descriptor of the shared memory, if it will need any.

    Raises:
        UserError: It does not start, or its orwcfm-core does not fit this one.
    """

    def __init__(self, name: str, environment: Environment, memory: int = -1) -> None:
        if not environment.usable:
            raise UserError(f"cannot start reward '{name}': no Python interpreter at {environment.interpreter}")
        self._received = b""
        self._said: deque[str] = deque(maxlen=20)
        self._socket, theirs = socket.socketpair()
        with theirs:
            self._popen = _start(name, environment, theirs.fileno(), memory)
        assert self._popen.stdout
        self._reader = threading.Thread(target=_keep_lines, args=(self._popen.stdout, self._said), daemon=True)
        self._reader.start()
        # Also at exit, and when nobody holds this object any more.
        self._finalizer = weakref.finalize(self, _end, self._popen, self._socket)
        _greet(self, name, environment)

    @property
    def alive(self) -> bool:
        """Whether it was not ended from here; if it died by itself, the next `ask` finds out."""
        return self._finalizer.alive

    def ask(self, seconds: float, op: str, **request: Any) -> Any:
        """Send a request and wait for the answer.

        Args:
            seconds: Time limit.
            op: What to do.
            request: What it needs, in values that JSON knows.

        Raises:
            Ended: It died, or was killed at the time limit.
            UserError: The reward raised it, or its code cannot be used.
            RunError: The reward raised something.
        """
        deadline, line = time.monotonic() + seconds, None
        try:
            # Dates are what a TOML file can hold and JSON cannot; pydantic reads them from text as well.
            self._send(json.dumps({"op": op, **request}, default=str).encode() + b"\n", deadline)
            line = self._receive(deadline)
        except TimeoutError:
            self.kill()
            raise Ended(f"no answer within {seconds:g} s{self._last_words()}") from None
        except (EOFError, OSError):
            raise Ended(f"{self._cause()}{self._last_words()}") from None
        finally:
            if line is None:
                # An interrupt as well: a late answer would be taken for that of the next request.
                self.kill()
        answer = json.loads(line)
        if "error" in answer:
            raise _ERRORS[answer["error"]](answer["message"])
        return answer["result"]

    def said(self, what: str) -> bool:
        """Whether a text is among the last lines that it printed."""
        return any(what in line for line in self._said)

    def close(self) -> None:
        """End it gently, or by force where that takes too long."""
        self._finalizer()

    def kill(self) -> None:
        """End it at once, with all that it started."""
        # Later its number may be another process's.
        if self.alive:
            _kill_group(self._popen)
        self.close()

    def _send(self, message: bytes, deadline: float) -> None:
        self._socket.settimeout(max(deadline - time.monotonic(), 0.001))
        self._socket.sendall(message)

    def _receive(self, deadline: float) -> bytes:
        while b"\n" not in self._received:
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                raise TimeoutError
            # Looked at before reading: what it wrote before its end is read first. Waiting for the end of the stream
            # alone would not do, since a process that the reward forked can hold it open.
            ended = self._popen.poll() is not None
            self._socket.settimeout(min(remaining, 1.0))
            try:
                chunk = self._socket.recv(65536)
            except TimeoutError:
                if ended:
                    raise EOFError from None
                continue
            if not chunk:
                raise EOFError
            self._received += chunk
        line, _, self._received = self._received.partition(b"\n")
        return line

    def _cause(self) -> str:
        try:
            code = self._popen.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            return "it closed the connection"
        return f"killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"

    def _last_words(self) -> str:
        self._reader.join(1.0)
        return f" (its last line: {self._said[-1][:300]})" if self._said else ""


def _start(name: str, environment: Environment, connection: int, memory: int) -> subprocess.Popen[bytes]:
    # These describe the interpreter that runs here. PYTHONPATH stays: who exports it means every interpreter, also
    # the one that he starts by hand to see what is wrong.
    ours = ("PYTHONHOME", "VIRTUAL_ENV", "__PYVENV_LAUNCHER__")
    # -P: nothing is imported from the working directory. -u: what was printed is there if the process is killed.
    command = [str(environment.interpreter), "-P", "-u", "-m", "orwcfm_core.worker", name, environment.where]
    try:
        return subprocess.Popen(
            [*command, str(connection), str(memory)],
            env={key: value for key, value in os.environ.items() if key not in ours},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=[connection, *([memory] if memory >= 0 else [])],
            # Ctrl-C is for the run, which saves before it ends the worker; and `kill` ends what the reward started.
            start_new_session=True,
        )
    except OSError as e:
        raise UserError(f"cannot start reward '{name}' in {environment.where}: {e}") from e


def _greet(process: Process, name: str, environment: Environment) -> None:
    """Check that the other end is there and speaks the same."""
    failure, pip = f"cannot start reward '{name}' in {environment.where}", f"{environment.interpreter} -m pip install"
    try:
        theirs = process.ask(_START, "hello")
    except Ended as e:
        if process.said("Unknown option: -P"):
            raise UserError(f"{failure}: its Python is older than 3.11, which orwcfm-core needs") from e
        missing = re.search(r"No module named '?(orwcfm_core[.\w]*)", str(e))
        if not missing:
            raise UserError(f"{failure}: {e}") from e
        if missing[1] == "orwcfm_core":
            advice = f"install it there, with the distribution of the reward: {pip} orwcfm-core"
        else:
            advice = f"the orwcfm-core there is too old: {pip} --upgrade orwcfm-core"
        raise UserError(f"{failure}: No module named {missing[1]}; {advice}") from e
    for what, ours in (("protocol", PROTOCOL), ("api", API)):
        if theirs[what] != ours:
            process.close()
            upgrade = f"{pip} --upgrade orwcfm-core" if theirs[what] < ours else "upgrade orwcfm-core here"
            raise UserError(f"{failure}: its orwcfm-core has {what} {theirs[what]}, this one has {ours}; {upgrade}")


def _keep_lines(stream: IO[bytes], lines: deque[str]) -> None:
    """Keep the last lines of what a process prints, and never let it wait for a reader."""
    with stream:
        for raw in iter(lambda: stream.readline(4096), b""):
            # A progress bar is one line whose last state counts.
            text = raw.decode("utf-8", "replace").strip().rpartition("\r")[2].strip()
            if text:
                lines.append(text)


def _end(popen: subprocess.Popen[bytes], connection: socket.socket) -> None:
    """Close the connection, at which a worker ends; kill one that does not, and what the reward started."""
    connection.close()
    with suppress(subprocess.TimeoutExpired):
        popen.wait(_PATIENCE)
    _kill_group(popen)
    popen.wait()


def _kill_group(popen: subprocess.Popen[bytes]) -> None:
    """Kill a worker with all that it started, which may outlive it: its session, and so its group, is its own."""
    with suppress(ProcessLookupError):
        os.killpg(popen.pid, signal.SIGKILL)
