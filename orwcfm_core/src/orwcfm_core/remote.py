"""A reward that is installed in another Python environment, as the registry would offer it. No torch in here."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import closing
from dataclasses import fields, is_dataclass
from functools import cached_property
from typing import Annotated, Any, ClassVar

from pydantic import ConfigDict, Field, ValidationError, WithJsonSchema, create_model, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from orwcfm_core.errors import UserError
from orwcfm_core.plugin import ComponentConfig, RewardSpec, absolute_path
from orwcfm_core.remote_process import Ended, Environment, Process

__all__ = ["RemotePlugin", "is_environment"]


def is_environment(where: str) -> bool:
    """Whether the text after `@` names an environment or its interpreter, rather than a distribution."""
    return os.sep in where or _environment(where).usable


class RemotePlugin:
    """A reward in an environment of its own; stands in for `orwcfm_core.registry.Plugin`.

    Args:
        name: The reward's name there, or `NAME@DIST` where several distributions offer the name.
        python: The environment: a folder made by venv, or an interpreter.
        timeout: Time limit of each request, in seconds.
    """

    kind = "reward"

    def __init__(self, name: str, python: str, timeout: float = 600.0) -> None:
        self.asked = name
        self.name = name.partition("@")[0]
        self.environment = _environment(python)
        self.timeout = timeout

    @property
    def python(self) -> str:
        """The environment, as an absolute path."""
        return self.environment.where

    @property
    def dist(self) -> str:
        """Name of the distribution that brings it."""
        return self._described["dist"]

    @property
    def version(self) -> str:
        """Version of that distribution."""
        return self._described["version"]

    def __str__(self) -> str:
        # Errors name the plugin, and one of them is that nobody could be asked for its distribution.
        of = f" of {self.dist} {self.version}" if "_described" in self.__dict__ else ""
        return f"{self.kind} '{self.name}'{of} in {self.python}"

    @cached_property
    def spec(self) -> RewardSpec:
        """The spec from there, with options that are checked there.

        Raises:
            UserError: The environment cannot be used, or the reward is unknown or broken there.
        """
        # Gradients do not cross between processes.
        here = {
            "config": self._config(),
            "ignores_prompt": self._ignores_prompt,
            "factory": "orwcfm_core.remote_reward:RemoteReward",
            "differentiable": False,
        }
        return _restored(RewardSpec, self._described["spec"] | here)

    def build(self, config: ComponentConfig, base: type) -> Any:
        """Start the reward in its environment.

        Args:
            config: Its options, an instance of `spec.config`.
            base: Abstract class that the result must be an instance of.

        Raises:
            UserError: It cannot be built.
            RunError: Its process dies, or takes too long.
        """
        from orwcfm_core.remote_reward import RemoteReward

        if not issubclass(RemoteReward, base):
            raise UserError(f"{self}: is a reward, expected a {base.__name__}")
        options, deterministic = config.model_dump(mode="json"), self.spec.deterministic
        return RemoteReward(self.asked, self.environment, options, self.timeout, deterministic)

    def complete(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Have the reward's own model check and complete its options.

        Raises:
            ValidationError: With the errors from there.
        """
        answer = self._ask("options", options=dict(options))
        if "options" in answer:
            return answer["options"]
        errors = [
            InitErrorDetails(
                type=PydanticCustomError(error["type"], error["msg"]), loc=tuple(error["loc"]), input=error["input"]
            )
            for error in answer["errors"]
        ]
        raise ValidationError.from_exception_data(self.name, errors)

    def _ignores_prompt(self, config: ComponentConfig) -> bool:
        # An older core at the other end does not say.
        return bool(self._ask("options", options=config.model_dump(mode="json")).get("ignores_prompt"))

    @cached_property
    def _described(self) -> dict[str, Any]:
        return self._ask("spec")

    def _ask(self, op: str, **request: Any) -> dict[str, Any]:
        """One request to a process of its own, which imports no torch and takes a fraction of a second."""
        with closing(Process(self.asked, self.environment)) as process:
            try:
                return process.ask(self.timeout, op, **request)
            except Ended as e:
                raise UserError(f"in {self.python}: {e}") from e

    def _config(self) -> type[ComponentConfig]:
        """A model with the fields of the reward's own, which does the checking."""
        schema = self._described["schema"]
        required = schema.get("required", ())
        options: dict[str, Any] = {
            name: (
                # A reference points into the whole schema and means nothing here.
                Any if "$ref" in str(entry) else Annotated[Any, WithJsonSchema(entry)],
                Field(... if name in required else entry.get("default"), description=entry.get("description")),
            )
            for name, entry in schema.get("properties", {}).items()
        }
        config = create_model(f"Options of {self.name}", __base__=_Options, **options)
        config._plugin = self
        return config


class _Options(ComponentConfig):
    """Options that are checked elsewhere."""

    # Else an infinite value, of which nothing is known here, would be written as none.
    model_config = ConfigDict(protected_namespaces=(), ser_json_inf_nan="constants")
    _plugin: ClassVar[RemotePlugin]

    @model_validator(mode="before")
    @classmethod
    def _check(cls, options: Any) -> Any:
        return cls._plugin.complete(options) if isinstance(options, Mapping) else options


def _environment(where: str) -> Environment:
    return Environment(absolute_path(where))


def _restored(dataclass: type[Any], values: Mapping[str, Any]) -> Any:
    """A frozen dataclass from JSON; what a newer core at the other end says besides is left out."""
    here = {}
    for field in fields(dataclass):
        if field.name in values:
            value = values[field.name]
            if is_dataclass(field.default):
                value = _restored(type(field.default), value)
            here[field.name] = tuple(value) if isinstance(value, list) else value
    return dataclass(**here)
