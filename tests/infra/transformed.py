"""What CloudFormation sees of a SAM template: SAM's own transform, run here, without AWS."""

from __future__ import annotations

import copy
import json
import os
from typing import Any

REGION = "us-east-1"


def transformed(template: dict[str, Any]) -> dict[str, Any]:
    """The template after the transform. Code that is a path stands for an upload, as `sam deploy` makes it."""
    from samtranslator.parser.parser import Parser
    from samtranslator.translator.translator import Translator

    before = os.environ.get("AWS_DEFAULT_REGION")
    os.environ["AWS_DEFAULT_REGION"] = REGION
    try:
        uploaded = json.loads(json.dumps(copy.deepcopy(template)))
        for block in uploaded["Resources"].values():
            uri = block.get("Properties", {}).get("CodeUri")
            if isinstance(uri, str) and not uri.startswith("s3://"):
                block["Properties"]["CodeUri"] = f"s3://uploads/{uri}"
        values = {name: given.get("Default", "") for name, given in uploaded["Parameters"].items()}
        done: dict[str, Any] = Translator({}, Parser()).translate(uploaded, values)
        return done
    finally:
        if before is None:
            os.environ.pop("AWS_DEFAULT_REGION")
        else:
            os.environ["AWS_DEFAULT_REGION"] = before
