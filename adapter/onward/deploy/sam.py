"""A plan as a SAM template: what `sam deploy` takes.

Only the functions are SAM's own (`AWS::Serverless::Function`: `sam deploy` uploads their code, and publishes a
version behind an alias where the plan asks for one). All else stands as CloudFormation has it, so that nothing is made
which the plan does not name.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from ..core.errors import Misconfigured
from .plan import ALIAS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .plan import Plan

VERSION = "2010-09-09"
TRANSFORM = "AWS::Serverless-2016-10-31"


def template(plan: Plan, code: Mapping[str, str]) -> dict[str, Any]:
    """The template. `code`: for each function of the plan, where its zip is: a path, or s3://bucket/key."""
    resources = {id: _serverless(plan, id, block, code) for id, block in plan.resources.items()}
    return {
        "AWSTemplateFormatVersion": VERSION,
        "Transform": TRANSFORM,
        "Description": plan.description,
        "Parameters": plan.parameters,
        "Conditions": plan.conditions,
        "Resources": resources,
        "Outputs": plan.outputs,
    }


def _serverless(plan: Plan, id: str, block: dict[str, Any], code: Mapping[str, str]) -> dict[str, Any]:
    if id not in plan.functions:
        return block
    properties = dict(block["Properties"])
    if "TracingConfig" in properties:
        properties["Tracing"] = properties.pop("TracingConfig")["Mode"]
    properties["CodeUri"] = code[id]
    if id == "Step" and plan.versions:
        properties["AutoPublishAlias"] = ALIAS
    return {**block, "Type": "AWS::Serverless::Function", "Properties": properties}


def to_yaml(content: Mapping[str, Any]) -> str:
    """YAML text, in the order in which it was made. Raises `Misconfigured` without PyYAML."""
    try:
        import yaml
    except ImportError:
        raise Misconfigured(
            "templates are written with PyYAML, which is not installed: pip install 'onward[deploy]'"
        ) from None

    class Plain(yaml.SafeDumper):  # type: ignore[misc]
        """Without anchors: CloudFormation does not know them."""

        def ignore_aliases(self, data: Any) -> bool:
            return True

    text: str = yaml.dump(json.loads(json.dumps(content)), Dumper=Plain, sort_keys=False, width=120, allow_unicode=True)
    return text
