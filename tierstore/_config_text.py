# SPDX-License-Identifier: Apache-2.0
"""The two textual ends of the configuration: errors that a person can act on, and TOML output.

An error is one line: where it stands (``tier[1].size``), what is there, and what would do.  The
standard library reads TOML but does not write it; what we write is flat enough for a page of code.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from tierstore._plugins import nearest

__all__ = ["dump_toml", "explain"]


def _where(loc: Sequence[int | str], data: object) -> str:
    """``tier[1].size`` from ("tier", 1, "size"), as the file is written."""
    text = ""
    for part in loc:
        if isinstance(part, int):
            # [region] is written as one table, yet kept as a list of one.
            if not isinstance(data, Mapping):
                text += f"[{part}]"
            data = data[part] if isinstance(data, list | tuple) and part < len(data) else data
        elif isinstance(data, Mapping) and part in data:
            text += f".{part}" if text else part
            data = data[part]
        elif isinstance(data, Mapping):
            text += f".{part}" if text else part
            data = None
        # Else: pydantic's name for a branch of a union; a reader has no use for it.
    return text


def _model_at(model: type[BaseModel], loc: Sequence[int | str]) -> type[BaseModel] | None:
    """The model whose fields are the choices at this place."""
    found: Any = model
    for part in loc:
        if isinstance(part, int):
            continue
        if not (isinstance(found, type) and issubclass(found, BaseModel)):
            return None
        field = found.model_fields.get(part)
        if field is None:
            return None
        found = field.annotation
        for inner in get_args(found):
            if isinstance(inner, type) and issubclass(inner, BaseModel):
                found = inner
    return found if isinstance(found, type) and issubclass(found, BaseModel) else None


_MEANT = {
    "string_type": "text in quotes would do",
    "int_type": "a whole number would do",
    "int_parsing": "a whole number would do",
    "int_from_float": "a whole number would do",
    "bool_type": "true or false would do",
    "bool_parsing": "true or false would do",
    "tuple_type": "a list would do",
    "path_type": "a path in quotes would do",
    "dict_type": "a table would do",
    "model_type": "a table would do",
}


def _what(detail: Mapping[str, Any], model: type[BaseModel]) -> str:
    kind, value, context = detail["type"], detail["input"], detail.get("ctx", {})
    loc = detail["loc"]
    shown = json.dumps(value, default=str)
    if len(shown) > 60:
        shown = shown[:57] + "..."
    if kind == "value_error":
        return str(context["error"])
    if kind == "extra_forbidden":
        owner = _model_at(model, loc[:-1])
        names = sorted(owner.model_fields) if owner else []
        close = nearest(str(loc[-1]), names)
        return f"unknown key{close or '; there are ' + ', '.join(names)}"
    if kind == "missing":
        return "missing, and there is no default"
    if kind == "literal_error":
        return f"{shown} is none of {context['expected']}{nearest(str(value), _literals(context))}"
    if kind in _MEANT:
        return f"{shown}; {_MEANT[kind]}"
    if kind == "string_pattern_mismatch":
        return f"{shown}; letters, digits, dot, dash and underscore would do"
    message = str(detail["msg"])
    return f"{shown}: {message[0].lower()}{message[1:]}"


def _literals(context: Mapping[str, Any]) -> list[str]:
    return str(context["expected"]).replace("'", "").replace(" or ", ", ").split(", ")


def explain(error: ValidationError, model: type[BaseModel], source: str, data: object) -> str:
    """Every complaint on a line of its own: the source, the key, the value, what would do.

    ``data`` is what was validated; ``model`` the class that refused it.
    """
    lines = []
    for detail in error.errors(include_url=False):
        where = _where(detail["loc"], data)
        text = _what(detail, model)
        lines.append(f"{source}: {where}: {text}" if where else f"{source}: {text}")
    return "\n".join(dict.fromkeys(lines))


def _toml_value(value: object) -> str:
    if isinstance(value, Mapping):
        inner = ", ".join(f"{_toml_key(k)} = {_toml_value(v)}" for k, v in value.items())
        return f"{{ {inner} }}" if inner else "{}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_toml_value(item) for item in value) + "]"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    # JSON's escapes are a subset of TOML's, but for DEL, which TOML wants escaped.
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")


def _toml_key(key: str) -> str:
    return key if key and key.replace("-", "").replace("_", "").isalnum() else json.dumps(key)


def dump_toml(data: Mapping[str, Any]) -> str:
    """TOML for tables of values and lists of such tables, one level deep."""
    lines: list[str] = []
    for section, content in data.items():
        is_list = isinstance(content, list)
        for table in content if is_list else [content]:
            lines.append(f"[[{section}]]" if is_list else f"[{section}]")
            lines += [f"{_toml_key(k)} = {_toml_value(v)}" for k, v in table.items()]
            lines.append("")
    return "\n".join(lines)
