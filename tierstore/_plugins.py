# SPDX-License-Identifier: Apache-2.0
"""Finds classes by name: built in, from an entry point of an installed package, or by dotted path.

Stores and policies plug in the same way: ``"name"`` is looked up among the built-in ones and then
among the entry points of its group; ``"package.module:Class"`` is imported as written.
"""

from __future__ import annotations

import difflib
import functools
import importlib
import re
from collections.abc import Iterable, Mapping
from importlib import metadata

from tierstore.errors import ConfigError

__all__ = ["find_class", "is_dotted", "nearest", "plugin_names"]

STORE_GROUP = "tierstore.stores"
POLICY_GROUP = "tierstore.policies"

_DOTTED = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


def is_dotted(name: str) -> bool:
    """Whether ``name`` is written as ``package.module:Class``."""
    return _DOTTED.fullmatch(name) is not None


@functools.cache
def _entry_points(group: str) -> Mapping[str, metadata.EntryPoint]:
    return {point.name: point for point in metadata.entry_points(group=group)}


def plugin_names(group: str) -> list[str]:
    """The names that installed packages add to this group, sorted."""
    return sorted(_entry_points(group))


def nearest(name: str, choices: Iterable[str]) -> str:
    """``'; did you mean "file"?'`` if something close is among the choices, else ``""``."""
    close = difflib.get_close_matches(name, list(choices), n=2, cutoff=0.6)
    if not close:
        return ""
    return "; did you mean " + " or ".join(f'"{choice}"' for choice in close) + "?"


def _import(what: str, spec: str) -> object:
    module_name, _, attribute = spec.partition(":")
    try:
        found: object = importlib.import_module(module_name)
        for part in attribute.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f'the {what} "{spec}" can\'t be imported: {error}') from error
    except Exception as error:
        # A module of somebody's own may do anything, a syntax error included.
        text = f"{type(error).__name__}: {error}"
        raise ConfigError(f'the {what} "{spec}" can\'t be imported: {text}') from error
    return found


def find_class(what: str, group: str, name: str, builtin: Mapping[str, type], base: type) -> type:
    """The class for ``name``; raises ``ConfigError`` that lists what there is.

    ``what`` is the noun for messages; the class must be a subclass of ``base``.
    """
    if name in builtin:
        return builtin[name]
    found: object
    if is_dotted(name):
        found = _import(what, name)
    elif name in _entry_points(group):
        found = _import(what, _entry_points(group)[name].value)
    else:
        names = sorted({*builtin, *_entry_points(group)})
        raise ConfigError(
            f'no {what} "{name}"; there are {", ".join(names)}{nearest(name, names)} '
            f'(your own: "package.module:Class")'
        )
    if not (isinstance(found, type) and issubclass(found, base)):
        raise ConfigError(
            f'the {what} "{name}" is no subclass of {base.__module__}.{base.__name__}'
        )
    return found
