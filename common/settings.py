"""Settings from the environment: their table, their values, and what is wrong with them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import Field, dataclass, field, fields
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, TypeVar

from common.errors import shown
from common.kubernetes import optional_url
from common.names import ZONE_ID_LABEL, ZONE_LABEL

if TYPE_CHECKING:
    from argparse import ArgumentParser
    from typing import Self

LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")

# How alike two names are, from 0 to 1, if one is most likely the other misspelt.
LIKENESS = 0.85

T = TypeVar("T")


class InvalidSetting(ValueError):
    """An environment variable has a value that cannot be used."""


def setting(default: str, convert: Callable[[str], T], meaning: str) -> T:
    """A field of `Settings`; `convert` raises a `ValueError` that says what it takes."""
    metadata = {"default": default, "convert": convert, "meaning": meaning}
    found: T = field(metadata=metadata)
    return found


@dataclass(frozen=True)
class Settings:
    """What the environment says: a field `port` is the variable `PORT`. Times are in seconds."""

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Self:
        """The settings, by default for a variable that is unset or empty.

        Raises `InvalidSetting`.
        """
        return cls(**{each.name: _value(each, environment) for each in fields(cls)})

    @classmethod
    def help(cls, environment: Mapping[str, str]) -> str:
        """A line for each setting with its default and its present value, and one with its meaning."""
        lines = []
        for each in fields(cls):
            name, default = each.name.upper(), each.metadata["default"]
            present = environment.get(name) or default
            now = f", now {shown(present)}" if present != default else ""
            lines += [
                f"  {name} (default {shown(default)}{now})",
                f"      {each.metadata['meaning']}",
            ]
        return "\n".join(lines)

    @classmethod
    def parser(cls, description: str, environment: Mapping[str, str]) -> ArgumentParser:
        """A parser for a program's command line, whose help has the settings too."""
        import argparse  # a service has no use for it, nor memory to spare

        return argparse.ArgumentParser(
            description=description,
            epilog=f"settings, which are environment variables:\n{cls.help(environment)}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    @classmethod
    def misspelt(cls, environment: Mapping[str, str]) -> Iterator[str]:
        """Warnings: variables whose names are close to a setting's."""
        names = [each.name.upper() for each in fields(cls)]
        for name in sorted(environment.keys() - set(names)):
            for close in get_close_matches(name.upper(), names, n=1, cutoff=LIKENESS):
                yield f"the environment variable {shown(name)} is no setting; {close} is one"

    def changed(self, environment: Mapping[str, str]) -> Iterator[str]:
        """The settings that are not what they are by default, as NAME=VALUE."""
        for each in fields(self):
            if getattr(self, each.name) != _value(each, {}):
                yield f"{each.name.upper()}={shown(environment.get(each.name.upper(), ''))}"


def _value(each: Field[Any], environment: Mapping[str, str]) -> object:
    name = each.name.upper()
    value = environment.get(name) or each.metadata["default"]
    try:
        return each.metadata["convert"](value)
    except ValueError as error:
        raise InvalidSetting(f"{name}: {shown(value)} is not {error}") from None


# What the values of settings are converted with.

text = str


def whole_number(maximum: int) -> Callable[[str], int]:
    """From 0 to `maximum`."""

    def convert(value: str) -> int:
        is_number = value.isascii() and value.isdigit() and len(value) <= len(str(maximum))
        if not is_number or int(value) > maximum:
            raise ValueError(f"a whole number from 0 to {maximum}")
        return int(value)

    return convert


def seconds(at_least: float = 0, at_most: float = 86400) -> Callable[[str], float]:
    """A length of time."""

    def convert(value: str) -> float:
        with suppress(ValueError):
            if "_" not in value and at_least <= float(value) <= at_most:
                return float(value)
        raise ValueError(f"a number of seconds from {at_least:g} to {at_most:g}")

    return convert


def one_of(*choices: str) -> Callable[[str], str]:
    """One of these words, in upper or lower case."""

    def convert(value: str) -> str:
        for choice in choices:
            if value.upper() == choice.upper():
                return choice
        raise ValueError(f"one of {', '.join(choices)}")

    return convert


def comma_separated(part: Callable[[str], str]) -> Callable[[str], tuple[str, ...]]:
    """Any number of parts, without what is white space around them; none if it is empty."""

    def convert(value: str) -> tuple[str, ...]:
        return tuple(part(each.strip()) for each in value.split(",")) if value else ()

    return convert


# What several programs have.


@dataclass(frozen=True)
class ServingSettings(Settings):
    """Of a program that has a port."""

    host: str = setting("", text, "the address to listen on; by default all, IPv4 and IPv6")
    port: int = setting("8080", whole_number(65535), "the port; 0 takes a free one and logs it")
    log_level: str = setting(
        "INFO", one_of(*LOG_LEVELS), f"{', '.join(LOG_LEVELS)}: what is less does not go to the log"
    )


@dataclass(frozen=True)
class ZoneSettings(Settings):
    """Of a program that knows of zones."""

    node_label: str = setting(
        ZONE_LABEL,
        one_of(ZONE_LABEL, ZONE_ID_LABEL),
        f"the label that stands for a node's zone: {ZONE_LABEL} or {ZONE_ID_LABEL}",
    )


@dataclass(frozen=True)
class ApiServerSettings(Settings):
    """Of a program that calls an API server."""

    kubernetes_url: str = setting(
        "",
        optional_url,
        "an API server that needs no token: `kubectl proxy`; by default the cluster's",
    )
