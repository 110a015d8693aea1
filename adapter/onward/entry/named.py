"""The app that a deployed function works for, by the name in ONWARD_APP: so the functions of a template need no file of
the user's beside the app itself."""

from __future__ import annotations

import sys

from ..app import App
from ..core.errors import Misconfigured

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping


def named_app(environ: Mapping[str, str]) -> App:
    """The app that ONWARD_APP names as "module:attribute". Raises `Misconfigured` where it names none; what the user's
    module raises while it is imported is left as it is, with its traceback."""
    name = environ.get("ONWARD_APP", "")
    module_name, colon, attribute = name.partition(":")
    if not colon or not module_name or not attribute:
        raise Misconfigured(f"ONWARD_APP names the app as module:variable (handlers.demo:app), and it is {name!r:.80}")
    try:
        __import__(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise  # the module is there, and misses one of its own
        raise Misconfigured(
            f"ONWARD_APP is {name!r:.80}, and there is no module {error.name!r} in this package: "
            f"`onward package` takes the app from the folder in which it is called"
        ) from None
    app = getattr(sys.modules[module_name], attribute, None)
    if not isinstance(app, App):
        raise Misconfigured(f"ONWARD_APP is {name!r:.80}, and {attribute!r} there is no App but a {type(app).__name__}")
    return app
