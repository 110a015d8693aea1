"""The same as the SAM template, as a CDK construct:

    from aws_cdk import App, Stack
    from onward.deploy.cdk import OnwardApp

    cdk_app = App()
    stack = Stack(cdk_app, "Shop")
    catalog = OnwardApp(stack, "Catalog", app="handlers.demo:app")
    catalog.step.add_to_role_policy(...)          # what your own steps need
    catalog.bus.grant_put_events_to(somebody)

It hands the plan to CDK's own `CfnInclude`, so nothing is made here which the plan does not name, and gives handles to
what was made. The code is packed while the construct is made, unless `code=` says where it is.
"""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aws_cdk import CfnResource, aws_dynamodb, aws_events, aws_lambda, aws_s3, aws_sqs
from aws_cdk import cloudformation_include as include
from aws_cdk.aws_s3_assets import Asset
from constructs import Construct

from ..app import App
from ..core.errors import InvalidOption
from .package import package, this_runtime
from .plan import ALIAS, LIVE_ALIAS, Options, plan

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .plan import Plan

KINDS = {"Step": "step", "Door": "door"}


class OnwardApp(Construct):
    """An app of Onward's, deployed. `app`: "module:attribute", importable where CDK is run.

    `parameters`: defaults of the template's parameters, by name (`{"ReservedConcurrency": 10}`; see infra/README.md).
    `code`: for "step" and "door", a zip that was made by `onward package`; packed here unless given. `requirements`:
    what the steps import, as pip takes it. The other options are those of `onward template`.

    `step`, `door` (None without one), `table`, `bus`, `wakes`, `dead_letters`, `values`: handles to what was made.
    Raises `InvalidOption` for what cannot be deployed.
    """

    def __init__(
        self,
        scope: Construct,
        id: str,
        *,
        app: str,
        parameters: Mapping[str, Any] | None = None,
        code: Mapping[str, str] | None = None,
        requirements: str | None = None,
        runtime: str | None = None,
        memory_mb: int = 512,
        timeout_s: int = 60,
        env: Mapping[str, str] | None = None,
        policies: Sequence[str] = (),
        door: bool = True,
        disposable: bool = False,
        snapstart: bool = False,
        tracing: bool = False,
    ) -> None:
        super().__init__(scope, id)
        options = Options(
            app,
            runtime=runtime or this_runtime(),
            memory_mb=memory_mb,
            timeout_s=timeout_s,
            env=dict(env or {}),
            policies=tuple(policies),
            door=door,
            disposable=disposable,
            snapstart=snapstart,
            tracing=tracing,
        )
        made = plan(_load(app), options)
        unknown = set(parameters or {}) - set(made.parameters)
        if unknown:
            raise InvalidOption(f"there is no parameter {sorted(unknown)[0]!r}; there are {', '.join(made.parameters)}")
        assets = self._assets(made, options, code or {}, requirements)
        self._included = self._include(made, assets, parameters or {})
        self.step = self._function("Step")
        self.door = self._function("Door") if door else None
        table, bus = self._resource("Table"), self._resource("Bus")
        self.table = aws_dynamodb.Table.from_table_arn(self, "TableHandle", table.get_att("Arn").to_string())
        self.bus = aws_events.EventBus.from_event_bus_arn(self, "BusHandle", bus.get_att("Arn").to_string())
        self.wakes = self._queue("Wakes")
        self.dead_letters = self._queue("DeadLetters")
        values = self._resource("Values").get_att("Arn").to_string()
        self.values = aws_s3.Bucket.from_bucket_arn(self, "ValuesHandle", values)

    def _assets(
        self, made: Plan, options: Options, code: Mapping[str, str], requirements: str | None
    ) -> dict[str, Asset]:
        assets = {}
        with tempfile.TemporaryDirectory(prefix="onward-cdk-") as folder:
            for name in made.functions:
                kind = KINDS[name]
                path = Path(code[kind]) if kind in code else Path(folder) / f"{kind}.zip"
                if kind not in code:
                    needs = Path(requirements) if requirements else None
                    package(options.app, path, kind=kind, runtime=options.runtime, requirements=needs)
                elif not path.is_file():
                    raise InvalidOption(f"there is no file {code[kind]!r}: make it with `onward package {options.app}`")
                assets[name] = Asset(self, f"{name}Code", path=str(path))
        return assets

    def _include(self, made: Plan, assets: dict[str, Asset], parameters: Mapping[str, Any]) -> include.CfnInclude:
        resources = {**made.resources}
        for name in made.functions:
            properties = {**resources[name]["Properties"], "Code": {"S3Bucket": "asset", "S3Key": "asset"}}
            resources[name] = {**resources[name], "Properties": properties}
        if made.versions:
            version = f"StepVersion{_digest(assets['Step'].asset_hash, json.dumps(resources['Step']))}"
            resources |= _alias(version)
        template = {
            "Description": made.description,
            "Parameters": {
                name: {**given, "Default": parameters.get(name, given["Default"])}
                for name, given in made.parameters.items()
            },
            "Conditions": made.conditions,
            "Resources": resources,
            "Outputs": made.outputs,
        }
        with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
            json.dump(template, file)
            file.flush()
            included = include.CfnInclude(
                self,
                "Made",
                template_file=file.name,
                preserve_logical_ids=False,
            )
        for name, asset in assets.items():
            function = included.get_resource(name)
            assert isinstance(function, CfnResource)
            function.add_property_override("Code.S3Bucket", asset.s3_bucket_name)
            function.add_property_override("Code.S3Key", asset.s3_object_key)
        return included

    def _resource(self, name: str) -> CfnResource:
        return self._included.get_resource(name)

    def _function(self, name: str) -> aws_lambda.IFunction:
        """A handle to a function, with its role: what is granted to it stands in a policy beside the plan's."""
        from aws_cdk import aws_iam

        made, role = self._resource(name), self._resource(f"{name}Role")
        arn = role.get_att("Arn").to_string()
        return aws_lambda.Function.from_function_attributes(
            self,
            f"{name}Handle",
            function_arn=made.get_att("Arn").to_string(),
            role=aws_iam.Role.from_role_arn(self, f"{name}RoleHandle", arn),
            same_environment=True,
        )

    def _queue(self, name: str) -> aws_sqs.IQueue:
        return aws_sqs.Queue.from_queue_arn(self, f"{name}Handle", self._resource(name).get_att("Arn").to_string())


def _alias(version: str) -> dict[str, Any]:
    """What SAM makes of `AutoPublishAlias`: a version of this very code and configuration, and the alias that names
    it."""
    return {
        version: {
            "Type": "AWS::Lambda::Version",
            "DeletionPolicy": "Retain",
            "Properties": {"FunctionName": {"Ref": "Step"}},
        },
        LIVE_ALIAS: {
            "Type": "AWS::Lambda::Alias",
            "Properties": {
                "FunctionName": {"Ref": "Step"},
                "FunctionVersion": {"Fn::GetAtt": [version, "Version"]},
                "Name": ALIAS,
            },
        },
    }


def _digest(*texts: str) -> str:
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:10]


def _load(name: str) -> App:
    """The app of that name, looked for in the current folder first."""
    from ..entry.named import named_app

    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    return named_app({"ONWARD_APP": name})
