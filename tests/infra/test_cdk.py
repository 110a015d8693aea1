"""The CDK construct makes what the SAM template makes: resource by resource, property by property."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("aws_cdk")

from aws_cdk import App, DefaultStackSynthesizer, Stack, aws_iam

from onward.core.errors import InvalidOption
from onward.deploy.cdk import OnwardApp
from onward.deploy.plan import Options, plan
from onward.deploy.sam import template
from tests import servers

from .app import app as kinds
from .conftest import CODE
from .transformed import transformed

REPOSITORY = Path(__file__).parents[2]
CHOICES: dict[str, dict[str, Any]] = {
    "plain": {},
    "snapstart": {"snapstart": True, "tracing": True},
    "small": {
        "door": False,
        "disposable": True,
        "env": {"SHOP": "x"},
        "policies": ("arn:aws:iam::aws:policy/ReadOnly",),
    },
}
ADDED_BY_CDK = ("CDKMetadata",)


def constructed(folder: Path, **options: Any) -> tuple[App, OnwardApp]:
    zips = {}
    for kind in ("step", "door"):
        zips[kind] = str(folder / f"{kind}.zip")
        Path(zips[kind]).write_bytes(b"PK\x05\x06" + b"\0" * 18)
    cdk_app = App(outdir=str(folder / "cdk.out"))
    stack = Stack(cdk_app, "stack", synthesizer=DefaultStackSynthesizer(generate_bootstrap_version_rule=False))
    return cdk_app, OnwardApp(stack, "It", app="tests.infra.app:app", runtime="python3.13", code=zips, **options)


def synthesised(folder: Path, **options: Any) -> tuple[OnwardApp, dict[str, Any]]:
    """The construct, and the template that CDK writes for it."""
    cdk_app, made = constructed(folder, **options)
    return made, cdk_app.synth().get_stack_by_name("stack").template


def in_the_plans_words(construct: OnwardApp, synthesised: dict[str, Any], wanted: dict[str, Any]) -> dict[str, Any]:
    """CDK's template with the logical ids of the plan instead of its own."""
    stack = Stack.of(construct)
    names = {}
    for section, get in (
        ("Resources", construct._included.get_resource),
        ("Conditions", construct._included.get_condition),
        ("Parameters", construct._included.get_parameter),
        ("Outputs", construct._included.get_output),
    ):
        for name in wanted[section]:
            known = _version_of(synthesised) if name.startswith("StepVersion") else stack.resolve(get(name).logical_id)
            names[known] = name
    text = json.dumps(synthesised)
    for known in sorted(names, key=len, reverse=True):
        text = text.replace(f'"{known}"', f'"{names[known]}"')
        for end in (".", "}"):
            text = text.replace(f"${{{known}{end}", f"${{{names[known]}{end}")
    renamed: dict[str, Any] = json.loads(text)
    return renamed


def _version_of(synthesised: dict[str, Any]) -> str:
    (name,) = [id for id, block in synthesised["Resources"].items() if block["Type"] == "AWS::Lambda::Version"]
    return name


def comparable(template: dict[str, Any]) -> dict[str, Any]:
    """Resources without what says who wrote them down, and where the code lies."""
    resources = {}
    for id, block in template["Resources"].items():
        if id in ADDED_BY_CDK:
            continue
        kept = {name: value for name, value in block.items() if name != "Metadata"}
        properties = json.loads(json.dumps(kept.get("Properties", {})))
        properties.pop("Tags", None)  # SAM: lambda:createdBy
        if kept["Type"] == "AWS::Lambda::Function":
            assert {"S3Bucket", "S3Key"} <= set(properties["Code"])
            properties["Code"] = "uploaded"
        if isinstance(kept.get("DependsOn"), str):
            kept["DependsOn"] = [kept["DependsOn"]]
        resources[id] = {**kept, "Properties": properties}
    return resources


@pytest.mark.parametrize("choice", sorted(CHOICES))
def test_sam_and_cdk_make_the_same_resources(choice: str, tmp_path: Path) -> None:
    options = CHOICES[choice]
    made = plan(kinds, Options("tests.infra.app:app", runtime="python3.13", **options))
    sam = transformed(template(made, CODE))
    construct, cdk = synthesised(tmp_path, **options)
    cdk = in_the_plans_words(construct, cdk, sam)
    ours, theirs = comparable(cdk), comparable(sam)
    assert sorted(ours) == sorted(theirs)
    for id in theirs:
        assert ours[id] == theirs[id], id
    for section in ("Conditions", "Outputs"):
        assert cdk[section] == json.loads(json.dumps(sam[section])), section
    parameters = {name: given for name, given in cdk["Parameters"].items() if name != "BootstrapVersion"}
    strings = json.loads(json.dumps(sam["Parameters"]))
    assert {name: _as_text(given) for name, given in parameters.items()} == {
        name: _as_text(given) for name, given in strings.items()
    }


def _as_text(given: dict[str, Any]) -> dict[str, Any]:
    """Numbers as text: CDK writes defaults of either kind."""
    return {
        name: [str(one) for one in value] if isinstance(value, list) else str(value) for name, value in given.items()
    }


def test_a_difference_between_the_two_would_be_seen(tmp_path: Path) -> None:
    made = plan(kinds, Options("tests.infra.app:app", runtime="python3.13"))
    sam = transformed(template(made, CODE))
    sam["Resources"]["Wakes"]["Properties"]["VisibilityTimeout"] += 1
    construct, cdk = synthesised(tmp_path)
    assert comparable(in_the_plans_words(construct, cdk, sam)) != comparable(sam)


def test_what_was_made_can_be_granted_to_others_and_steps_can_be_granted_more(tmp_path: Path) -> None:
    cdk_app, made = constructed(tmp_path)
    somebody = aws_iam.Role(Stack.of(made), "Somebody", assumed_by=aws_iam.ServicePrincipal("ec2.amazonaws.com"))
    made.bus.grant_put_events_to(somebody)
    made.step.grant_invoke(somebody)
    made.table.grant_read_data(somebody)
    made.dead_letters.grant_consume_messages(somebody)
    made.values.grant_read(somebody)
    feeds = aws_iam.PolicyStatement(actions=["s3:GetObject"], resources=["arn:aws:s3:::feeds/*"])
    made.step.add_to_role_policy(feeds)
    resources = cdk_app.synth().get_stack_by_name("stack").template["Resources"]
    policies = {
        json.dumps(block["Properties"]["Roles"]): json.dumps(block["Properties"]["PolicyDocument"])
        for block in resources.values()
        if block["Type"] == "AWS::IAM::Policy"
    }
    (others,) = [text for roles, text in policies.items() if "Somebody" in roles]
    (steps,) = [text for roles, text in policies.items() if "StepRole" in roles]
    for action in ("events:PutEvents", "lambda:InvokeFunction", "dynamodb:Query", "sqs:ReceiveMessage", "s3:GetObject"):
        assert action in others
    assert "arn:aws:s3:::feeds/*" in steps


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"parameters": {"Reserved": 1}}, "there is no parameter 'Reserved'; there are ReservedConcurrency"),
        ({"code": {"step": "none.zip"}}, "there is no file 'none.zip': make it with `onward package"),
    ],
)
def test_what_cannot_be_is_refused_with_what_to_do(options: dict[str, Any], told: str) -> None:
    with pytest.raises(InvalidOption, match=told):
        OnwardApp(Stack(App(), "stack"), "It", app="tests.infra.app:app", runtime="python3.13", **options)


def test_cdk_synth_takes_the_example_without_aws(tmp_path: Path) -> None:
    """`infra/cdk/app.py` with CDK's own command line: it packs the demo, and its template passes CDK's validation."""
    environ = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "PYTHONPATH": f"{REPOSITORY / 'adapter'}{os.pathsep}{REPOSITORY}",
        "CDK_DISABLE_VERSION_CHECK": "1",
        "JSII_SILENCE_WARNING_UNTESTED_NODE_VERSION": "1",
        "JSII_SILENCE_WARNING_DEPRECATED_NODE_VERSION": "1",
        "JSII_SILENCE_WARNING_END_OF_LIFE_NODE_VERSION": "1",
    }
    command = [str(servers.find_cdk()), "synth", "--quiet", "--output", str(tmp_path / "out"), "--no-notices"]
    command += ["--app", f"{sys.executable} {REPOSITORY / 'infra' / 'cdk' / 'app.py'}"]
    done = subprocess.run(command, capture_output=True, text=True, env=environ, cwd=REPOSITORY, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    written = json.loads((tmp_path / "out" / "demo.template.json").read_text())
    assert "AWS::Scheduler::Schedule" in {block["Type"] for block in written["Resources"].values()}
    assert "ERROR" not in done.stdout + done.stderr
