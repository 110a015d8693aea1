"""A slice of `make sim`: fixed seeds, and fresh ones at every run. A failing seed prints how to tell it again."""

from __future__ import annotations

import os
import re
import secrets
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest

from onward.engine import fanout
from onward.engine.ledger import Ledger

from .__main__ import ENOUGH_INVOCATIONS
from .shrink import command, shrunk
from .story import Story, fails

ROOT = Path(__file__).parents[2]
FIXED = range(120)
FRESH_S = float(os.environ.get("ONWARD_SIM_FRESH_S", "20"))
GROUPS = 8


def tell(seed: int) -> Story:
    """Tell a story; where it fails, say how to tell it again, small."""
    story, error = fails(lambda: Story(seed))
    if error is not None:
        found = shrunk(seed, most=100)
        again, small = found if found is not None else (command(seed, {}), error)
        pytest.fail(
            f"seed {seed}: {type(error).__name__}: {error}\nsmall: {small}\ntell it again:  {again}", pytrace=False
        )
    return story


@pytest.mark.parametrize("group", range(GROUPS))
def test_nothing_breaks_in_the_stories_of_fixed_seeds(group: int) -> None:
    for seed in FIXED[group::GROUPS]:
        tell(seed)


def test_nothing_breaks_in_the_stories_of_fresh_seeds() -> None:
    first = seed = secrets.randbelow(1 << 32)
    began = time.monotonic()
    invocations = 0
    while time.monotonic() - began < FRESH_S:
        invocations += tell(seed).function.invocations
        seed += 1
    print(f"seeds {first} to {seed - 1}: {invocations:,} invocations")
    assert invocations > ENOUGH_INVOCATIONS * FRESH_S / 300 / 4, "the simulator has become slow"


def test_the_fixed_seeds_meet_every_kind_of_fault() -> None:
    """Or a passing story would say nothing."""
    from .story import FAULTS

    met: set[str] = set()
    for seed in FIXED:
        story, _ = fails(lambda seed=seed: Story(seed))
        met |= set(story.chance.counts)
        if met >= FAULTS.keys() - {"skew"}:
            return
    assert not FAULTS.keys() - {"skew"} - met


def digest(seed: int, hash_seed: str) -> str:
    """What happened in a story, as told by another process."""
    code = (
        "import hashlib, json, sys; from tests.sim.story import Story; "
        f"s = Story({seed}).tell(); "
        "items = sorted((k, json.dumps(v, sort_keys=True)) for k, v in s.cloud.table.items.items()); "
        # A traceback shows lines of frames, and the objects' addresses in it are not the seed's.
        "import re; text = re.sub(r'0x[0-9a-f]+', '', repr((items, s.chance.struck, s.world.ticks))); "
        "print(hashlib.sha256(text.encode()).hexdigest())"
    )
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'adapter'}{os.pathsep}{ROOT}", "PYTHONHASHSEED": hash_seed}
    done = subprocess.run([sys.executable, "-c", code], env=environment, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("seed", [2, 12, 18, 85])
def test_a_seed_tells_the_same_story_in_every_process(seed: int) -> None:
    assert digest(seed, "1") == digest(seed, "2")


def test_a_failing_seed_is_made_small_and_its_command_tells_it_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a fault planted in the engine: a lane's result is taken for free, whoever has it already."""
    monkeypatch.setattr(Ledger, "append", append_over)
    seed = next(seed for seed in FIXED if fails(lambda seed=seed: Story(seed))[1] is not None)
    whole = fails(lambda: Story(seed))[0]
    found = shrunk(seed)
    assert found is not None
    line, error = found
    assert "invariant" in str(error)
    parts = dict(zip(*[iter(shlex.split(line)[3:])] * 2, strict=True))
    assert parts["--seed"] == str(seed)
    if parts.get("--only", "none") != "none":
        assert len(parts["--only"].split(",")) < max(len(whole.chance.struck), 2)
    numbers = {name: [int(n) for n in re.findall(r"\d+", parts.get(f"--{name}", ""))] for name in ("keep", "cut")}
    only = parts.get("--only")
    labels = None if only is None else [] if only == "none" else only.split(",")
    _, again = fails(lambda: Story(seed, only=labels, keep=numbers["keep"] or None, cut=numbers["cut"]))
    assert type(again) is type(error) and str(again)[:20] == str(error)[:20]


def append_over(
    ledger: Ledger,
    fold: object,
    body: dict[str, object],
    value: str | None = None,
    also: object = (),
    slots: object = None,
) -> None:
    """`Ledger.append` as somebody would write it who has not thought of races: whatever stands there is replaced."""
    from onward.core.log import log_key
    from onward.ports import Put, Swap

    item = ledger.item(fold.run, log_key(fold.next_seq), body, value)  # type: ignore[attr-defined]
    refused = (slots or ledger.store).write([Put(item)], also)  # type: ignore[attr-defined]
    if refused is not None and refused.standing[0] is not None:
        ledger.store.write([Swap(item, refused.standing[0].token)])
    fold.apply(item)  # type: ignore[attr-defined]


def test_small_plans_are_as_small_as_told_and_the_bounds_come_back() -> None:
    from .story import small_plans

    kept = fanout.FEW, fanout.FAN, fanout.CHUNK
    with small_plans():
        assert fanout.FEW == 2
    assert kept == (fanout.FEW, fanout.FAN, fanout.CHUNK)
