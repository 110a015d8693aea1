"""The demo as a CDK app: `cdk synth --app "python infra/cdk/app.py"`, called where `handlers/` stands."""

from __future__ import annotations

from aws_cdk import App, Stack

from onward.deploy.cdk import OnwardApp

cdk_app = App()
stack = Stack(cdk_app, "demo")
OnwardApp(stack, "Demo", app="handlers.demo:app")
cdk_app.synth()
