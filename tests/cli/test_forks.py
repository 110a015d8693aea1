"""`onward retry` and `onward rerun`."""

import json
import textwrap

import pytest

MENDED = """
    import pathlib
    from onward import App

    app = App("mended")

    def do(name, text="made"):
        with open("done.txt", "a") as file:
            file.write(f"{name}:{text} ")
        if name == "b" and not pathlib.Path("mended").exists():
            raise ValueError("not yet")
        return text

    @app.workflow(on="go", retries=0)
    def work(event, step):
        return [step.run(name, do, name) for name in "abc"] + [event.data.get("n")]
"""


@pytest.fixture
def failed(folder, onward):
    """The id of a run that failed in step b."""
    (folder / "mended.py").write_text(textwrap.dedent(MENDED))
    answer = onward("run", "mended:app", "go", "--data", '{"n": 1}', "--json")
    assert answer.code == 1
    (folder / "mended").touch()
    (folder / "done.txt").unlink()
    return json.loads(answer.out[-1])["run_id"]


def test_a_failed_run_is_retried_from_its_failed_step(folder, onward, failed):
    for _ in range(2):
        answer = onward("retry", failed, "--json")
        told = json.loads(answer.out[-1])
        assert answer.code == 0 and told["status"] == "completed" and told["run_id"] != failed
        assert told["output"] == ["made", "made", "made", 1]
        assert (folder / "done.txt").read_text() == "b:made c:made ", "the same command again is the same run"
    onward("retry", failed, "--request", "again")
    assert (folder / "done.txt").read_text() == "b:made c:made b:made c:made "


def test_a_run_is_done_again_from_a_step_with_other_input(folder, onward, failed):
    answer = onward("rerun", failed, "--from", "b", "--input", '["b", "new"]', "--data", '{"n": 2}', "--json")
    assert answer.code == 0 and json.loads(answer.out[-1])["output"] == ["made", "new", "made", 2]
    assert (folder / "done.txt").read_text() == "b:new c:made "
    answer = onward("rerun", failed, "--from", "b", "--input", '{"name": "b", "text": "x"}', "--json")
    assert json.loads(answer.out[-1])["output"] == ["made", "x", "made", 1]
    assert onward("rerun", failed).code == 0
    assert (folder / "done.txt").read_text().endswith("a:made b:made c:made ")


def test_what_cannot_be_done_again_says_why(folder, onward, refused, failed):
    assert "has come to no step 'x'; it has 'a', 'b'" in refused("rerun", failed, "--from", "x")
    assert "takes a JSON list" in refused("rerun", failed, "--from", "b", "--input", "5")
    assert "is no JSON" in refused("rerun", failed, "--data", "{")
    assert "there is no run 'nowhere'" in refused("retry", "nowhere")
    assert "there is no store 'none.db'" in refused("retry", failed, "--store", "none.db")
