"""The HTTP function of a template: the Lambda handler of the door of the app that ONWARD_APP names, made at INIT."""

from __future__ import annotations

import os

from .http import handler as _handler
from .named import named_app

handler = _handler(named_app(os.environ))
