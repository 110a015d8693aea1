"""User values to JSON text and back.

What JSON can say is written as it is. What Python has besides is written as an object with the key "$", whose
value names the kind: {"$": "decimal", "v": "0.85"}. A dictionary of the user's that has a key "$" is written
as such a tagged object too, so no value can be mistaken for a tag. Dataclasses and enums are tagged with the
name of their class, and read back only if a module that is already loaded has that very class: reading never
imports, and never runs anything but the constructor of a dataclass or enum. Models of pydantic are written
as their fields and need `output_type=` to come back.

There is no fallback to `repr` or pickle: what cannot be written is an error that says where it stands.
"""

from __future__ import annotations

import json
import sys

from .errors import NotEncodable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Path = tuple["Path", str | int] | None
    """Where a value stands inside another: the path of what holds it, and its key or index there. It is spelled out
    for errors only: spelling it out at each value would take time in the square of a hostile payload's size."""

MAX_DEPTH = 100
MAX_TOLD_CHARS = 200  # of a path, or of an error of somebody else's, in our own errors
_PLAIN = (str, int, bool, type(None))
_SCALARS = (str, int, float)
_INFINITE = (float("inf"), float("-inf"))


def encode(value: Any, what: str, output_type: Any = None) -> str:
    """JSON text of `value`; `what` names it in errors (as in «the result of step 'fetch'»).

    Raises `NotEncodable` with the path inside the value and the type of what stands there.
    """
    tree = _fold_in(value, None, what, output_type is not None, 0)
    try:
        text = json.dumps(tree, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        text.encode()
    except UnicodeEncodeError:  # a lone surrogate, which JSON can say only escaped
        return json.dumps(tree, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    except ValueError as error:  # an int of more digits than Python prints
        raise NotEncodable(f"{what} cannot be written as JSON: {error}") from error
    return text


def decode(text: str, output_type: Any = None) -> Any:
    """The value of a JSON text that `encode` made: a new object at every call.

    Raises `NotEncodable` for a text that it did not make, and what the constructor of `output_type` raises.
    """
    try:
        tree = json.loads(text)
        if '"$"' in text:
            tree = _fold_out(tree)
    except (NotEncodable, MemoryError):
        raise
    except Exception as error:  # whoever edits a log can write anything, and a class may refuse its fields
        raise NotEncodable(
            f"the log holds a value that cannot be read back ({type(error).__name__}: {str(error)[:MAX_TOLD_CHARS]}): "
            f"it was edited, or its class was changed"
        ) from error
    return tree if output_type is None else revive(tree, output_type)


def _shown(path: Path) -> str:
    """A path as people read it, like $.items[3].price; its beginning where it is long."""
    parts: list[str] = []
    while path is not None:  # as deep as values may be nested, and no deeper
        path, part = path
        parts.append(f"[{part}]" if isinstance(part, int) else f".{part[:MAX_TOLD_CHARS]}")
    text = "$" + "".join(reversed(parts))
    return text if len(text) <= MAX_TOLD_CHARS else f"{text[:MAX_TOLD_CHARS]}..."


def _fold_in(value: Any, path: Path, what: str, typed: bool, depth: int) -> Any:
    kind = type(value)
    if kind in _PLAIN:
        return value
    if depth > MAX_DEPTH:
        raise NotEncodable(f"{what} is nested deeper than {MAX_DEPTH} levels (or contains itself) at {_shown(path)}")
    if kind is dict:
        for name in value:
            if type(name) is not str:
                raise NotEncodable(
                    f"{what} has a key of type {_name(type(name))} at {_shown(path)}: {name!r:.60}. "
                    f"Keys must be strings: use str(key)"
                )
        inside = {k: _fold_in(v, (path, k), what, typed, depth + 1) for k, v in value.items()}
        return {"$": "dict", "v": [list(pair) for pair in inside.items()]} if "$" in inside else inside
    if kind is list:
        return [_fold_in(v, (path, i), what, typed, depth + 1) for i, v in enumerate(value)]
    if kind is tuple:
        return {"$": "tuple", "v": [_fold_in(v, (path, i), what, typed, depth + 1) for i, v in enumerate(value)]}
    if kind is float:
        return {"$": "float", "v": str(value)} if value != value or value in _INFINITE else value  # noqa: PLR0124
    return _fold_in_rare(value, path, what, typed, depth)


def _fold_in_rare(value: Any, path: Path, what: str, typed: bool, depth: int) -> Any:
    """What is neither a plain value nor a container of JSON's."""
    kind = type(value)
    if kind is bytes or kind is bytearray:
        import binascii

        return {"$": "bytes", "v": binascii.b2a_base64(value, newline=False).decode()}
    module = kind.__module__
    if module == "datetime" and kind.__name__ in ("datetime", "date"):
        return {"$": kind.__name__, "v": value.isoformat()}
    if module in ("decimal", "_decimal", "_pydecimal") and kind.__name__ == "Decimal":
        return {"$": "decimal", "v": str(value)}
    if module == "uuid" and kind.__name__ == "UUID":
        return {"$": "uuid", "v": str(value)}
    enum, dataclasses = sys.modules.get("enum"), sys.modules.get("dataclasses")
    if enum is not None and isinstance(value, enum.Enum):
        inner = _fold_in(value.value, (path, "value"), what, typed, depth + 1)
        return {"$": "enum", "t": _class_name(kind, what, path), "v": inner}
    if dataclasses is not None and dataclasses.is_dataclass(kind):
        inside = {
            field.name: _fold_in(getattr(value, field.name), (path, field.name), what, typed, depth + 1)
            for field in dataclasses.fields(value)
            if field.init
        }
        return {"$": "dataclass", "t": _class_name(kind, what, path), "v": inside}
    if hasattr(kind, "model_fields") and hasattr(value, "model_dump"):
        if not typed:
            raise NotEncodable(
                f"{what} has a pydantic model {_name(kind)} at {_shown(path)}: pass output_type={kind.__name__} "
                f"to the step so that it comes back as one"
            )
        return _fold_in(value.model_dump(mode="python", round_trip=True), path, what, typed, depth + 1)
    hint = {
        "set": "use sorted(...) or list(...)",
        "frozenset": "use sorted(...) or list(...)",
        "coroutine": "await it first: make the workflow `async def`",
        "generator": "use list(...)",
        "timedelta": "use .total_seconds()",
    }.get(kind.__name__, "return plain data: dict, list, str, numbers, datetime, Decimal, UUID, bytes, Enum, dataclass")
    if hasattr(value, "tolist"):  # NumPy's scalars and arrays
        hint = "use .tolist()"
    raise NotEncodable(f"{what} has a value of type {_name(kind)} at {_shown(path)}, which cannot be kept: {hint}")


def _fold_out(tree: Any) -> Any:
    if type(tree) is list:
        return [_fold_out(v) for v in tree]
    if type(tree) is not dict:
        return tree
    if "$" not in tree:
        return {k: _fold_out(v) for k, v in tree.items()}
    tag, inner = tree["$"], tree["v"]
    if tag == "dict":
        return {k: _fold_out(v) for k, v in inner}
    if tag == "tuple":
        return tuple(_fold_out(v) for v in inner)
    if tag == "float":
        return float(inner)
    if tag == "bytes":
        import binascii

        return binascii.a2b_base64(inner)
    if tag in ("datetime", "date"):
        import datetime

        return getattr(datetime, tag).fromisoformat(inner)
    if tag == "decimal":
        from decimal import Decimal

        return Decimal(inner)
    if tag == "uuid":
        from uuid import UUID

        return UUID(inner)
    if tag in ("enum", "dataclass"):
        return _rebuild(tag, tree["t"], _fold_out(inner))
    raise NotEncodable(f"the log holds a value of the unknown kind {tag!r:.60}: it was written by a newer Onward")


def _rebuild(tag: str, name: str, inner: Any) -> Any:
    import dataclasses
    import enum

    module, _, path = name.partition(":")
    found: Any = sys.modules.get(module)
    for part in path.split("."):  # not by getattr: a module's __getattr__ may import, a descriptor may do anything
        found = getattr(found, "__dict__", {}).get(part)
    known = isinstance(found, type)
    if known and tag == "enum" and issubclass(found, enum.Enum):
        return found(inner)
    if known and tag == "dataclass" and dataclasses.is_dataclass(found):
        build: Any = found
        return build(**inner)
    raise NotEncodable(
        f"the log holds a value of class {name}, which is not loaded: "
        f"keep that class, or where it was moved from leave an alias"
    )


def revive(tree: Any, output_type: Any) -> Any:
    """`tree` as `output_type`: a pydantic model, dataclass, enum, or list, dict, tuple, union of such.

    Raises what the type's own constructor raises.
    """
    from typing import get_args, get_origin

    origin, arguments = get_origin(output_type), get_args(output_type)
    if origin is not None:
        return _revive_generic(tree, origin, arguments)
    if output_type is None or not isinstance(output_type, type) or isinstance(tree, output_type):
        return tree
    if hasattr(output_type, "model_validate"):
        try:
            return output_type.model_validate(tree, by_alias=True, by_name=True)
        except TypeError:  # pydantic before 2.11 knows its fields by their aliases only
            return output_type.model_validate(tree)
    import dataclasses
    import enum

    if issubclass(output_type, enum.Enum):
        return output_type(tree)
    if dataclasses.is_dataclass(output_type) and isinstance(tree, dict):
        from typing import get_type_hints

        hints = get_type_hints(output_type)
        return output_type(**{k: revive(v, hints.get(k)) for k, v in tree.items()})
    cut = output_type is int and type(tree) is float and not tree.is_integer()
    if type(tree) in _SCALARS and output_type.__name__ in ("Decimal", "UUID", "float", "int", "str") and not cut:
        build: Any = output_type
        return build(tree)
    raise NotEncodable(f"a value of type {_name(type(tree))} does not fit output_type={_name(output_type)}")


def _revive_generic(tree: Any, origin: Any, arguments: tuple[Any, ...]) -> Any:
    if origin is list and isinstance(tree, list):
        return [revive(v, arguments[0]) for v in tree]
    if origin is dict and isinstance(tree, dict):
        return {k: revive(v, arguments[1]) for k, v in tree.items()}
    if origin is tuple and isinstance(tree, list | tuple):
        kinds = arguments if arguments[-1:] != (Ellipsis,) else (arguments[0],) * len(tree)
        return tuple(revive(v, t) for v, t in zip(tree, kinds, strict=True))
    if origin in (list, dict, tuple):
        raise NotEncodable(f"a value of type {_name(type(tree))} does not fit output_type={_name(origin)}[...]")
    if tree is None and type(None) in arguments:
        return None
    if type(tree) in arguments and type(tree) in _SCALARS:
        return tree
    problems = []
    for option in arguments:  # a union: the first that fits
        try:
            return revive(tree, option)
        except Exception as error:
            problems.append(f"{_name(option)}: {error}")
    raise NotEncodable(f"a value of type {_name(type(tree))} fits none of output_type's: {'; '.join(problems)[:500]}")


def _class_name(kind: type, what: str, path: Path) -> str:
    if "<locals>" in kind.__qualname__:
        raise NotEncodable(
            f"{what} has a {_name(kind)} at {_shown(path)}, a class inside a function: move it to the module"
        )
    return f"{kind.__module__}:{kind.__qualname__}"


def _name(kind: Any) -> str:
    module = getattr(kind, "__module__", "")
    name = getattr(kind, "__qualname__", str(kind))
    return name if module in ("builtins", "") else f"{module}.{name}"
