"""Find the app that a command names, as `module:variable`."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from ..app import App
from ..core.errors import DefinitionError, InvalidEvent, InvalidOption

if TYPE_CHECKING:
    from ..ports import Store

MAX_SHOWN_CHARS = 80
TARGET_KEY = ("onward", "target")  # under which a store remembers the app that it was last used with


def load(target: str) -> tuple[App, ModuleType]:
    """The app and its module; the current directory is importable, as with `python -m`."""
    name, colon, variable = target.partition(":")
    if not name or not colon or not variable.isidentifier():
        raise DefinitionError(f"{target!r} names no app: write it as module:variable, like handlers.demo:app")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            raise DefinitionError(
                f"there is no module {error.name!r} to import: are you in the folder that has it?"
            ) from error
        raise DefinitionError(f"module {name!r} needs {error.name!r}, which is not installed") from error
    except (Exception, SystemExit) as error:
        raise DefinitionError(f"module {name!r} cannot be imported: {type(error).__name__}: {error}") from error
    app = getattr(module, variable, None)
    if not isinstance(app, App):
        apps = [key for key, value in vars(module).items() if isinstance(value, App)]
        hint = f"it has {', '.join(apps)}" if apps else 'write app = App("...") there'
        raise DefinitionError(f"module {name!r} has no app {variable!r}; {hint}")
    return app, module


def remembered(store: Store, path: str) -> str:
    """The app that a store was last used with."""
    found = store.get([TARGET_KEY])[0]
    if found is None:
        raise InvalidOption(f"the store {path!r} was never used with an app: name it with --app module:variable")
    name: str = json.loads(found.body)["target"]
    return name


def event_data(text: str | None, module: ModuleType, event: str) -> Any:
    """The data of an event: JSON text, @FILE, or what the module's `sample_data(event)` makes."""
    if text is None:
        sample = getattr(module, "sample_data", None)
        return sample(event) if callable(sample) else {}
    return json_of("--data", text)


def json_of(origin: str, text: str) -> Any:
    """The value of an option that takes JSON text or @FILE."""
    if text.startswith("@"):
        origin = text[1:]
        try:
            text = Path(origin).read_text(encoding="utf-8")
        except (OSError, ValueError) as error:  # no UTF-8, or no name of a file
            raise InvalidEvent(f"cannot read the event's data from {origin!r}: {error}") from error
    try:
        return json.loads(text, parse_constant=_no_json)
    except (ValueError, RecursionError) as error:
        shown = text if len(text) <= MAX_SHOWN_CHARS else text[:MAX_SHOWN_CHARS] + "..."
        raise InvalidEvent(f"{origin} is no JSON ({error}): {shown}") from error


def _no_json(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")
