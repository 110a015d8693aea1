"""The step function of a template: the Lambda handler of the app that ONWARD_APP names, made at INIT, where Lambda
gives a full core."""

from __future__ import annotations

import os

from .aws import handler as _handler
from .named import named_app

handler = _handler(named_app(os.environ))
