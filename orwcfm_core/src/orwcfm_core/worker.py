"""The far end of a remote reward: runs in the reward's own interpreter and answers requests. No torch in here.

    python -m orwcfm_core.worker NAME WHERE SOCKET MEMORY

is how `orwcfm_core.remote_process` starts it. SOCKET is an inherited descriptor on which requests and answers pass, a
line of JSON each; MEMORY is another, of the memory in which tensors pass (-1: none). Nothing is pickled, and what the
reward prints goes elsewhere. The modules that need torch are imported when the reward is built.
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import fields
from functools import cached_property
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError
from pydantic_core import to_jsonable_python

from orwcfm_core.errors import RunError, UserError
from orwcfm_core.plugin import API, RewardSpec, Spec
from orwcfm_core.registry import Plugin, Registry, blame

if TYPE_CHECKING:
    from orwcfm_core.worker_reward import Served

__all__ = ["PROTOCOL", "main"]

PROTOCOL = 2
"""Number of the messages that pass; both ends must have the same."""

_GRACE = 2.0  # seconds that a computation may go on after the parent went away


class _Worker:
    """Answers requests; each is a mapping whose `op` names what to do.

    Args:
        name: The reward, as the registry looks it up.
        where: The environment, as the user knows it; every error begins with it.
        memory: Descriptor of the shared memory.
    """

    def __init__(self, name: str, where: str, memory: int) -> None:
        self.name = name
        self.where = where
        self.memory = memory
        self.served: Served | None = None
        self.light: Mapping[str, Callable[..., Any]] = {
            "hello": self.hello,
            "spec": self.spec,
            "options": self.options,
            "build": self.build,
        }

    @cached_property
    def plugin(self) -> Plugin:
        """The reward's plugin in this environment."""
        return Registry().get("reward", self.name)

    def answer(self, line: bytes) -> str:
        """Do what a request asks; whatever goes wrong is an answer too, and the next request finds all as it was."""
        request = json.loads(line)
        op = request.pop("op")
        try:
            with blame(f"in {self.where}", RunError if op in ("score", "features") else UserError):
                do = self.light.get(op) or getattr(self.served, op)
                return json.dumps({"result": do(**request)})
        except (UserError, RunError) as e:
            return json.dumps({"error": type(e).__name__, "message": str(e)})

    def hello(self) -> dict[str, int]:
        """What this end speaks."""
        return {"protocol": PROTOCOL, "api": API}

    def spec(self) -> dict[str, Any]:
        """The reward's spec without its code, and the JSON schema of its options."""
        spec = self.plugin.spec
        return {
            "spec": _plain_fields(spec),
            "dist": self.plugin.dist,
            "version": self.plugin.version,
            "schema": spec.config.model_json_schema(by_alias=False),
        }

    def options(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """The options checked and completed, with what they say of the reward; or pydantic's errors."""
        try:
            config = self.plugin.spec.config.model_validate(options)
        except ValidationError as e:
            return {"errors": json.loads(e.json(include_url=False, include_context=False))}
        spec = self.plugin.spec
        ignores_prompt = isinstance(spec, RewardSpec) and spec.ignores_prompt(config)
        return {"options": config.model_dump(mode="json"), "ignores_prompt": ignores_prompt}

    def build(self, options: Mapping[str, Any], threads: int) -> dict[str, bool]:
        """Build the reward and say whether it has features; requests for scores can follow."""
        from orwcfm_core.worker_reward import Served

        self.served = Served(self.plugin, options, self.memory, threads)
        return {"features": self.served.reward.has_features}


def main() -> None:
    """Answer until the other end goes away."""
    name, where, *descriptors = sys.argv[1:]
    descriptor, memory = map(int, descriptors)
    for inherited in (descriptor, memory):
        if inherited >= 0:
            # What the reward starts itself must not keep the connection open when this process dies.
            os.set_inheritable(inherited, False)
    connection = socket.socket(fileno=descriptor)
    inbox: SimpleQueue[bytes] = SimpleQueue()
    threading.Thread(target=_listen, args=(connection, inbox), daemon=True).start()
    worker = _Worker(name, where, memory)
    gone = threading.Event()
    # Registered first, so that it is done last: whatever else the reward registers.
    atexit.register(lambda: _end_group() if gone.is_set() else None)
    with suppress(BrokenPipeError, ConnectionResetError):
        while line := inbox.get():
            connection.sendall(worker.answer(line).encode() + b"\n")
    gone.set()


def _listen(connection: socket.socket, inbox: SimpleQueue[bytes]) -> None:
    """Queue requests, in a thread of its own so that a parent's death ends even a computation that never returns."""
    with suppress(ConnectionResetError), connection.makefile("rb") as lines:
        for line in lines:
            inbox.put(line)
    inbox.put(b"")
    time.sleep(_GRACE)
    _end_group()
    os._exit(1)


def _end_group() -> None:
    """End what the reward started, and this process with it, where it has a group of its own."""
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)


def _plain_fields(spec: Spec) -> dict[str, Any]:
    """What can be said in JSON: neither the model of the options nor code."""
    values = {field.name: getattr(spec, field.name) for field in fields(spec) if field.name != "factory"}
    return {
        name: to_jsonable_python(value, serialize_unknown=True)
        for name, value in values.items()
        if not callable(value)  # as the model of the options is
    }


if __name__ == "__main__":
    main()
