"""The template is one that AWS's own tools take, and says on purpose what the engine leans on."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from onward import App
from onward.aws.table import SCHEMA
from onward.core.errors import InvalidOption
from onward.deploy.plan import Options, Plan, plan
from onward.deploy.sam import template, to_yaml
from tests import servers

from .app import app
from .conftest import CODE, REGION
from .transformed import transformed

REPOSITORY = Path(__file__).parents[2]


def lint(path: Path) -> str:
    command = [str(Path(sys.executable).with_name("cfn-lint")), "--regions", REGION, "--", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


def test_cfn_lint_has_nothing_against_it_before_and_after_sams_transform(sam: dict[str, Any], tmp_path: Path) -> None:
    """Before it, circles inside SAM's own resources are not seen."""
    (tmp_path / "template.yaml").write_text(to_yaml(sam))
    assert lint(tmp_path / "template.yaml") == ""
    (tmp_path / "transformed.json").write_text(json.dumps(transformed(sam)))
    assert lint(tmp_path / "transformed.json") == ""


def test_cfn_lint_sees_a_circle(sam: dict[str, Any], tmp_path: Path) -> None:
    """Else it would have nothing against one."""
    sam["Resources"]["StepRole"]["Properties"]["Description"] = {"Fn::Sub": "of ${Step}"}
    (tmp_path / "transformed.json").write_text(json.dumps(transformed(sam)))
    assert "E3004" in lint(tmp_path / "transformed.json")


def test_sam_validates_it(sam: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "template.yaml").write_text(to_yaml(sam))
    command = [str(servers.find_sam()), "validate", "--lint", "--region", REGION, "-t", str(tmp_path / "template.yaml")]
    environ = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "SAM_CLI_TELEMETRY": "0"}
    done = subprocess.run(command, capture_output=True, text=True, env=environ, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "is a valid SAM Template" in done.stdout


def test_the_committed_template_is_what_the_command_writes() -> None:
    """`onward template handlers.demo:app --runtime python3.13 --out infra/template.yaml --code ../build`"""
    command = ["template", "handlers.demo:app", "--runtime", "python3.13", "--code", "../build"]
    done = subprocess.run(
        [sys.executable, "-m", "onward", *command],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        env={"PYTHONPATH": f"{REPOSITORY / 'adapter'}:{REPOSITORY}", "PATH": "/usr/bin:/bin"},
        check=True,
    )
    assert done.stdout == (REPOSITORY / "infra" / "template.yaml").read_text()


def test_yaml_and_json_say_the_same(sam: dict[str, Any]) -> None:
    assert yaml.safe_load(to_yaml(sam)) == json.loads(json.dumps(sam))


def of_type(made: Plan, kind: str) -> dict[str, dict[str, Any]]:
    return {id: block["Properties"] for id, block in made.resources.items() if block["Type"] == kind}


def test_what_the_engine_leans_on_is_said(made: Plan) -> None:
    step = made.resources["Step"]["Properties"]
    assert (step["RecursiveLoop"], step["Architectures"]) == ("Allow", ["arm64"])
    invokes = made.resources["StepInvokes"]["Properties"]
    assert invokes["MaximumRetryAttempts"] == 0
    assert invokes["DestinationConfig"]["OnFailure"]["Destination"] == {"Fn::GetAtt": ["Wakes", "Arn"]}
    queue = made.resources["StepQueue"]["Properties"]
    assert queue["FunctionResponseTypes"] == ["ReportBatchItemFailures"]
    wakes = made.resources["Wakes"]["Properties"]
    assert wakes["VisibilityTimeout"] >= 6 * step["Timeout"]
    assert wakes["RedrivePolicy"]["deadLetterTargetArn"] == {"Fn::GetAtt": ["DeadLetters", "Arn"]}
    table = made.resources["Table"]["Properties"]
    assert {name: table[name] for name in SCHEMA} == SCHEMA
    assert table["BillingMode"] == "PAY_PER_REQUEST"
    assert table["PointInTimeRecoverySpecification"] == {"PointInTimeRecoveryEnabled": True}
    assert table["TimeToLiveSpecification"]["Enabled"]


def test_state_outlives_its_stack_unless_it_is_disposable() -> None:
    kept, thrown = (plan(app, Options("a:b", disposable=disposable)) for disposable in (False, True))
    for name in ("Table", "Values"):
        assert kept.resources[name]["DeletionPolicy"] == kept.resources[name]["UpdateReplacePolicy"] == "Retain"
        assert thrown.resources[name]["DeletionPolicy"] == "Delete"
    assert kept.resources["Table"]["Properties"]["DeletionProtectionEnabled"] is True
    assert thrown.resources["Table"]["Properties"]["DeletionProtectionEnabled"] is False


def test_nothing_but_the_code_differs_between_two_deploys_of_one_app(made: Plan) -> None:
    """Logical ids follow from what they stand for: a deploy replaces no resource without a reason."""
    again = plan(app, Options("tests.infra.app:app", runtime="python3.13"))
    assert again == plan(app, Options("tests.infra.app:app", runtime="python3.13"))


def test_a_door_is_behind_iam_and_open_to_all_only_where_it_has_keys() -> None:
    made = plan(app, Options("a:b"))
    assert made.resources["DoorUrl"]["Properties"]["AuthType"] == {"Fn::If": ["HasDoorKeys", "NONE", "AWS_IAM"]}
    public = [block for block in made.resources.values() if block.get("Properties", {}).get("Principal") == "*"]
    assert len(public) == 2
    assert all(block["Condition"] == "HasDoorKeys" for block in public)
    assert made.parameters["DoorKeys"]["NoEcho"] is True
    keys = [block for id, block in made.resources.items() if "DoorKeys" in json.dumps(block) and id != "Door"]
    assert all("HasDoorKeys" in json.dumps(block) and '{"Ref": "DoorKeys"}' not in json.dumps(block) for block in keys)


def test_without_a_door_nothing_of_it_is_there() -> None:
    assert not [id for id in plan(app, Options("a:b", door=False)).resources if id.startswith("Door")]


def test_with_versions_everything_that_calls_the_function_calls_the_alias(sam: dict[str, Any], made: Plan) -> None:
    targets = [
        *(block["Targets"][0]["Arn"] for block in of_type(made, "AWS::Events::Rule").values()),
        *(block["Target"]["Arn"] for block in of_type(made, "AWS::Scheduler::Schedule").values()),
        made.resources["StepQueue"]["Properties"]["FunctionName"],
        made.outputs["FunctionName"]["Value"],
    ]
    wanted = {"Ref": "StepAliaslive"} if made.versions else {"Fn::GetAtt": ["Step", "Arn"]}
    assert targets == [wanted] * len(targets)
    assert ("StepAliaslive" in transformed(sam)["Resources"]) is made.versions


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (Options("no-colon"), "module:variable"),
        (Options("a/b:c"), "module:variable"),
        (Options("a:b", runtime="python2.7"), "the runtime is one of"),
        (Options("a:b", runtime="python3.11", snapstart=True), "SnapStart needs python3.12"),
        (Options("a:b", memory_mb=64), "128 to 10,240 MB"),
        (Options("a:b", timeout_s=901), "5 to 900 seconds"),
        (Options("a:b", env={"ONWARD_TABLE": "x"}), "leave it out"),
        (Options("a:b", env={"AWS_REGION": "x"}), "leave it out"),
    ],
)
def test_what_cannot_be_deployed_is_refused_with_what_to_do(options: Options, told: str) -> None:
    with pytest.raises(InvalidOption, match=told):
        plan(app, options)


def test_an_app_without_triggers_still_has_its_sweep() -> None:
    made = plan(App("empty"), Options("a:b"))
    assert "Sweep" in template(made, CODE)["Resources"]
    assert len(of_type(made, "AWS::Events::Rule")) == 1
