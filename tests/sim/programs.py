"""Generated workflows, and a model in plain Python of what they come to.

A program is a tree of small nodes. Each knows three things: how it acts in a workflow, sync or async alike; what it
comes to (`expects`), which knows nothing of logs, attempts, or faults; and how to write itself down. What one step made
is handed to the next, so that a value that was not kept would show.

A step that fails is told so by the witness, which counts performances outside of the engine: it fails its first
`fails` performances, whatever attempts the engine thinks they were.

Left open, for the issue that brings each: retry of a run, fork (issue 4), map (issue 7).
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

from onward import App, Event, NonRetriable, Retry, RetryAfter, StepError, current_step

from .flows import FLOWS, number_of
from .function import Function, work
from .table import ADD_ONE, COUNTERS, THERE
from .witness import Performance, Witness
from .world import Killed

N = TypeVar("N")
MANY = Retry(max_attempts=60, base=1.0, cap=20.0)  # more than the faults of a story can use up
TIMEOUT_S = 5.0
LARGE_CHARS = 70_000  # over what stands in an item
FAILURES = ("error", "error", "retry_after", "exit", "slow", "deaf", "dies")
FAR_S = 1_000  # further than a wake reaches: the sweep comes in between
MAX_DEPTH = 3
SENT = "-sent"  # ends the name of a step that sends an event
WRITES = "-writes"  # ends the name of a step of `step.transact`
WIDEST = 12


# ------------------------------------------------------------------------------------------------- what is expected
class Made:
    """The value that the step of that name made, after it failed so often."""

    def __init__(self, name: str, fails: int = 0) -> None:
        self.name = name
        self.fails = fails

    def __repr__(self) -> str:
        return f"<made by {self.name}>"


class Either:
    """One of several outcomes, where the world may decide."""

    def __init__(self, *options: Any) -> None:
        self.options = options

    def __repr__(self) -> str:
        return " or ".join(map(repr, self.options))


def fits(expected: Any, value: Any) -> bool:
    """Whether a value is what the model expects."""
    if isinstance(expected, Either):
        return any(fits(option, value) for option in expected.options)
    if isinstance(expected, Made):
        return isinstance(value, dict) and value.get("made") == expected.name and value["by"] > expected.fails
    if isinstance(expected, list):
        return isinstance(value, list) and len(value) == len(expected) and all(map(fits, expected, value))
    return bool(expected == value)


# ------------------------------------------------------------------------------------------------------ the tools
class Tools:
    """What the nodes act with: the function in which they run, the witness, and how branches are run."""

    def __init__(self, function: Function, witness: Witness, is_async: bool, event: Any = None) -> None:
        self.function = function
        self.witness = witness
        self.is_async = is_async
        self.event = event

    def perform(self, node: Do, given: Any) -> Any:
        invocation = self.function.invocation()
        began, wake = (invocation.began_tick, invocation.payload) if invocation else (0, {})
        seen = self.witness.see(given, began, wake, node.once)
        try:
            return self._do(node, seen)
        finally:
            self.witness.over(seen)

    def _do(self, node: Do, seen: Performance) -> Any:
        if node.takes_ms:
            work(self.function, node.takes_ms)
        if seen.number <= node.fails:
            self._fail(node.how, seen.number)
        made: dict[str, Any] = {"made": current_step().step, "by": seen.number}
        if node.large:
            made["much"] = f"{seen.run} " * (LARGE_CHARS // 25)
        return made

    async def perform_async(self, node: Do, given: Any) -> Any:
        await asyncio.sleep(0)
        return self.perform(node, given)

    def ask(self, node: Callback, token: str, given: Any) -> Any:
        """Hand out a token."""
        self.witness.handed_out(token, node, current_step().run_id)
        return self.perform(node.asks, given)

    def look(self, node: Poll, given: Any) -> Any:
        """Whether something holds: at the first so many looks it does not."""
        made = self.perform(Do(node.name), given)
        return made if made["made"] == node.last else None

    def _fail(self, how: str, number: int) -> None:
        self.witness.counts[f"step: {how}"] += 1
        if how == "retry_after":
            raise RetryAfter(FAR_S if number == 1 else 7)
        if how == "exit":
            sys.exit("a step that leaves")
        if how in ("slow", "deaf"):
            work(self.function, 10 * self.function.settings.timeout_ms, deaf=how == "deaf")
        if how == "dies":
            task = self.function.world.current()
            if task is not None:
                self.function.world.after(0, task.kill)
                self.function.world.pause(1)
                raise Killed
        if how == "final":
            raise NonRetriable("never")
        raise ConnectionError("not yet")

    async def branches(self, step: Any, how: str, branches: Sequence[Callable[[], Any]]) -> list[Any]:
        """Call several coroutine functions beside each other."""
        if not self.is_async:
            sync_step = step._step
            found: list[Any] = sync_step.parallel(*(partial(drive, branch) for branch in branches))
            return found
        if how == "group":
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(branch()) for branch in branches]
            return [task.result() for task in tasks]
        return list(await asyncio.gather(*(branch() for branch in branches)))


class Awaiting:
    """The steps of a sync workflow behind the awaitable face of the async ones."""

    def __init__(self, step: Any) -> None:
        self._step = step

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._step, name)

        async def call(*args: Any, **kwargs: Any) -> Any:
            return method(*args, **kwargs)

        return call


def drive(branch: Callable[[], Any]) -> Any:
    """Run a coroutine that awaits nothing that could make it wait."""
    try:
        branch().send(None)
    except StopIteration as stop:
        return stop.value
    raise AssertionError("a program awaits nothing but steps")


# ------------------------------------------------------------------------------------------------------- the nodes
class Do:
    """A step."""

    def __init__(
        self,
        name: str,
        fails: int = 0,
        how: str = "error",
        takes_ms: int = 0,
        large: bool = False,
        once: bool = False,
        is_async: bool = False,
        ordinal: int = 1,
    ) -> None:
        self.name = name
        self.fails = fails
        self.how = how
        self.takes_ms = takes_ms
        self.large = large
        self.once = once
        self.is_async = is_async
        self.ordinal = ordinal

    async def act(self, step: Any, tools: Tools, given: Any) -> Any:
        fn = tools.perform_async if self.is_async and tools.is_async else tools.perform
        options: dict[str, Any] = {"once": True} if self.once else {"retries": MANY}
        if self.how == "slow" and self.fails:
            options["timeout"] = TIMEOUT_S
        try:
            return await step.run(self.name, fn, self, given, **options)
        except StepError:
            if not self.once:
                raise
            return "not sure"

    def expects(self) -> Any:
        shown = self.name if self.ordinal == 1 else f"{self.name} ({self.ordinal})"
        return Either(Made(shown), "not sure") if self.once else Made(shown, self.fails)

    def steps(self) -> list[Do]:
        return [self]

    def __repr__(self) -> str:
        flags = [f"fails {self.fails} {self.how}"] * bool(self.fails) + ["large"] * self.large + ["once"] * self.once
        return f"{self.name}({', '.join(flags)})"


class Sleep:
    def __init__(self, name: str, seconds: int) -> None:
        self.name = name
        self.seconds = seconds

    async def act(self, step: Any, tools: Tools, given: Any) -> Any:
        return await step.sleep(self.name, self.seconds)

    def expects(self) -> Any:
        return None

    def steps(self) -> list[Do]:
        return []

    def __repr__(self) -> str:
        return f"sleep {self.seconds} s"


class Wait:
    """A wait for an event that is sent so long after the run was (None: never). `asks`: where= decides."""

    def __init__(self, name: str, seconds: int, sent_ms: int | None, asks: bool = False) -> None:
        self.name = name
        self.seconds = seconds
        self.sent_ms = sent_ms
        self.asks = asks

    async def act(self, step: Any, tools: Tools, given: Any) -> Any:
        number = tools.event.data["n"]
        match = None if self.asks else {"data.n": number}
        where = (lambda event: event.data["n"] == number) if self.asks else None
        found = await step.wait_for_event(
            self.name, event=self.event(tools.event.name), match=match, where=where, timeout=self.seconds
        )
        return None if found is None else [found.data["n"] == number, found.name.rpartition("/")[2]]

    def event(self, program: str) -> str:
        return f"{program}/{self.name}"

    def expects(self) -> Any:
        return Either([True, self.name], None) if self.sent_ms is not None else None

    def steps(self) -> list[Do]:
        return []

    def __repr__(self) -> str:
        sent = "never" if self.sent_ms is None else f"after {self.sent_ms} ms"
        return f"{self.name}(waits {self.seconds} s for what is sent {sent}{', asks' if self.asks else ''})"


class Ping:
    """An event that the workflow sends, and then waits for."""

    seconds = 90_000

    def __init__(self, name: str) -> None:
        self.name = name

    async def act(self, step: Any, tools: Tools, given: Any) -> Any:
        name, number = f"{tools.event.name}/{self.name}", tools.event.data["n"]
        await step.send_event(f"{self.name}{SENT}", {"n": number}, event=name)
        found = await step.wait_for_event(self.name, event=name, match={"data.n": number}, timeout=self.seconds)
        return found and found.data["n"] == number

    def expects(self) -> Any:
        return True

    def steps(self) -> list[Do]:
        return []

    def __repr__(self) -> str:
        return f"{self.name}(sends, and waits for it)"


class Callback:
    """A step that somebody outside answers. `acts`: what they do, and how long after they first had the token."""

    def __init__(self, name: str, seconds: int, acts: list[tuple[int, str]], heartbeat: int | None, fails: int) -> None:
        self.name = name
        self.seconds = seconds
        self.acts = acts
        self.heartbeat = heartbeat
        self.asks = Do(f"{name}.notify", fails)

    async def act(self, step: Any, tools: Tools, given: Any) -> Any:
        asks = partial(tools.ask, self)
        try:
            return await step.callback(self.name, asks, given, timeout=self.seconds, heartbeat=self.heartbeat)
        except StepError as error:
            return error.type

    def expects(self) -> Any:
        ends = ["StepTimeout"] + ["HeartbeatLost"] * (self.heartbeat is not None)
        given = {"complete": [self.name], "fail": "Refused"}
        return Either(*ends, *(given[how] for _, how in self.acts if how in given))

    def steps(self) -> list[Do]:
        return [self.asks]

    def __repr__(self) -> str:
        beats = f", a heartbeat each {self.heartbeat} s" if self.heartbeat else ""
        return f"{self.name}(callback within {self.seconds} s{beats}: {self.acts})"


class Poll:
    """A condition that does not hold at its first `no` looks."""

    def __init__(self, name: str, no: int, every: int, timeout: int | None) -> None:
        self.name = name
        self.no = no
        self.every = every
        self.timeout = timeout
        self.seconds = every * 2**no

    @property
    def last(self) -> str:
        """The step that finds it holding."""
        return self.name if self.no == 0 else f"{self.name} ({self.no + 1})"

    async def act(self, step: Any, tools: Tools, given: Any) -> Any:
        look = partial(tools.look, self)
        return await step.wait_until(self.name, look, given, every=self.every, backoff=2, timeout=self.timeout)

    def expects(self) -> Any:
        return Made(self.last) if self.timeout is None else Either(Made(self.last), None)

    def steps(self) -> list[Do]:
        return [Do(self.name)]

    def __repr__(self) -> str:
        return f"{self.name}(holds after {self.no} looks, each {self.every} s, within {self.timeout})"


class Transact:
    """A step that counts in a table of the user's. `refused`: together with a condition that does not hold."""

    def __init__(self, name: str, refused: bool) -> None:
        self.name = name + WRITES
        self.refused = refused

    async def act(self, step: Any, tools: Tools, given: Any) -> Any:
        def writes() -> list[dict[str, Any]]:
            own = current_step()
            add = {"UpdateExpression": ADD_ONE, "ExpressionAttributeValues": {":one": {"N": "1"}}}
            place = {"TableName": COUNTERS, "Key": {"id": {"S": f"{own.run_id}/{own.step}"}}}
            nobody = {"TableName": COUNTERS, "Key": {"id": {"S": "nobody"}}, "ConditionExpression": THERE}
            return [{"Update": {**place, **add}}, *([{"ConditionCheck": nobody}] if self.refused else [])]

        try:
            return await step.transact(self.name, writes, retries=MANY)
        except StepError as error:
            return error.type

    def expects(self) -> Any:
        return "WriteRefused" if self.refused else 1

    def steps(self) -> list[Do]:
        return []

    def __repr__(self) -> str:
        return f"{self.name}({'is refused' if self.refused else 'counts'})"


class Child:
    """Another run, of a workflow of its own. `raises`: it fails in the end, which is caught."""

    def __init__(self, name: str, nodes: list[Any], raises: bool) -> None:
        self.name = name
        self.nodes = nodes
        self.branches = [nodes]
        self.raises = raises

    async def act(self, step: Any, tools: Tools, given: Any) -> Any:
        try:
            return await step.invoke(f"{tools.event.name}/{self.name}", given, name=self.name)
        except StepError as error:
            return error.type

    def register(self, app: App, name: str, function: Callable[[], Function], witness: Witness) -> None:
        def story(event: Any, step: Any) -> Any:
            results = drive(partial(act_all, self.nodes, Awaiting(step), Tools(function(), witness, False), event.data))
            if self.raises:
                raise RuntimeError("after all")
            return [_small(result) for result in results]

        app.workflow(on=f"{name}/{self.name}", name=f"{name}/{self.name}", retries=MANY)(story)

    def expects(self) -> Any:
        return "RuntimeError" if self.raises else [node.expects() for node in self.nodes]

    def steps(self) -> list[Do]:
        return []  # they are another run's

    def __repr__(self) -> str:
        return f"{self.name}(child{' that raises' if self.raises else ''} {self.nodes})"


class Catch:
    """A step that fails for good, and is caught; another takes its place."""

    def __init__(self, name: str, retries: int, instead: Do, how: str = "error") -> None:
        self.bad = Do(name, 1 << 30, how)
        self.retries = retries
        self.instead = instead

    async def act(self, step: Any, tools: Tools, given: Any) -> Any:
        try:
            await step.run(self.bad.name, tools.perform, self.bad, given, retries=Retry(self.retries + 1, base=1.0))
        except StepError:
            return await self.instead.act(step, tools, given)

    def expects(self) -> Any:
        return self.instead.expects()

    def steps(self) -> list[Do]:
        return [self.instead]

    def __repr__(self) -> str:
        return f"catch {self.bad.name} else {self.instead}"


class Together:
    """Branches beside each other, each a list of nodes."""

    def __init__(self, branches: list[list[Any]], how: str) -> None:
        self.branches = branches
        self.how = how

    async def act(self, step: Any, tools: Tools, given: Any) -> Any:
        return await tools.branches(
            step, self.how, [partial(act_all, branch, step, tools, given) for branch in self.branches]
        )

    def expects(self) -> Any:
        return [[node.expects() for node in branch] for branch in self.branches]

    def steps(self) -> list[Do]:
        return [do for branch in self.branches for node in branch for do in node.steps()]

    def __repr__(self) -> str:
        return f"{self.how}{self.branches}"


class Race:
    """The first of several steps, in an async workflow; in a sync one, the first in order."""

    def __init__(self, runners: list[Do]) -> None:
        self.runners = runners

    async def act(self, step: Any, tools: Tools, given: Any) -> Any:
        if not tools.is_async:
            return await self.runners[0].act(step, tools, given)
        tasks = [asyncio.ensure_future(runner.act(step, tools, given)) for runner in self.runners]
        done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
        return next(task.result() for task in tasks if task in done)

    def expects(self) -> Any:
        return Either(*(runner.expects() for runner in self.runners))

    def steps(self) -> list[Do]:
        return []  # whichever

    def __repr__(self) -> str:
        return f"race{self.runners}"


def all_of(kind: type[N], nodes: Sequence[Any]) -> list[N]:
    """All nodes of a kind in these, however deep."""
    inside = [found for node in nodes for branch in getattr(node, "branches", ()) for found in all_of(kind, branch)]
    return [node for node in nodes if isinstance(node, kind)] + inside


async def act_all(nodes: Sequence[Any], step: Any, tools: Tools, given: Any) -> list[Any]:
    """Act one after the other; what one made is given to the next."""
    results = []
    for node in nodes:
        results.append(await node.act(step, tools, given))
        given = [node_name(node), _small(results[-1])]
    return results


def node_name(node: Any) -> str:
    return type(node).__name__


def _small(value: Any) -> Any:
    """A value without what makes it large."""
    if isinstance(value, list):
        return [_small(inner) for inner in value]
    return {key: inner for key, inner in value.items() if key != "much"} if isinstance(value, dict) else value


# ---------------------------------------------------------------------------------------------------- the programs
class Program:
    """A workflow. `raises`: it fails in the end, and something is done about it. `cancel_ms`: somebody cancels it, so
    long after it was started."""

    def __init__(
        self,
        nodes: list[Any],
        is_async: bool = False,
        fill: bool = False,
        raises: bool = False,
        cancel_ms: int | None = None,
        flow: Any = None,
    ) -> None:
        self.nodes = nodes
        self.is_async = is_async
        self.fill = fill
        self.raises = raises
        self.cancel_ms = cancel_ms
        self.flow = flow

    def register(self, app: App, name: str, function: Callable[[], Function], witness: Witness, version: int) -> None:
        """Make it a workflow of the app. Version 2 of the code has one step more, at the end."""
        nodes = [*self.nodes, Do("tail")] if version == 2 else self.nodes
        program = self

        async def story(event: Any, step: Any) -> Any:
            data = {"n": number_of(event.data)}
            tools = Tools(function(), witness, program.is_async, Event(name, data, event.id, event.at_ms))
            results = await act_all(nodes, step, tools, data)
            if program.raises:
                raise RuntimeError("after all")
            return [_small(result) for result in results]

        def sync_story(event: Any, step: Any) -> Any:
            return drive(partial(story, event, Awaiting(step)))

        def told(event: Any, step: Any) -> Any:
            tools = Tools(function(), witness, False)
            return step.run("tell", tools.perform, Do("tell"), event.data["run_id"])

        for child in all_of(Child, self.nodes):
            child.register(app, name, function, witness)
        options: dict[str, Any] = {"steps_per_invocation": "fill"} if self.fill else {}
        options["on_failure"] = options["on_cancel"] = told
        options.update(self.flow.options(name) if self.flow else {})
        app.workflow(on=name, name=name, retries=MANY, **options)(story if self.is_async else sync_story)

    def expected(self, versions: int) -> tuple[set[str], Any]:
        """The states in which its run may end, and what the result may be where it completed."""
        states = {"failed" if self.raises else "completed"}
        options = self.flow.options("") if self.flow else {}
        if self.cancel_ms is not None or "cancel_on" in options or "singleton" in options:
            states.add("cancelled")
        if "finish_timeout" in options or "start_timeout" in options:
            states.add("failed")
        results = [node.expects() for node in self.nodes]
        return states, results if versions == 1 else Either(results, [*results, Made("tail")])

    def waits(self) -> list[Wait]:
        """All waits in it."""
        return all_of(Wait, self.nodes)

    def steps(self) -> list[Do]:
        """The steps that a run that completed has performed."""
        return [do for node in self.nodes for do in node.steps()]

    def __repr__(self) -> str:
        kind = ("async " if self.is_async else "") + ("fill " if self.fill else "") + ("raises " if self.raises else "")
        flow = f" ({self.flow})" if self.flow else ""
        cancel = f" cancelled after {self.cancel_ms} ms" if self.cancel_ms is not None else ""
        return f"{kind}{self.nodes}{flow}{cancel}"


class Author:
    """Writes programs. `pick(options)` chooses: a random generator's or Hypothesis's. Each node has a number in the
    order of writing; those in `cut` are left out."""

    def __init__(self, pick: Callable[[Sequence[Any]], Any], cut: Sequence[int] = ()) -> None:
        self._pick = pick
        self._cut = set(cut)
        self._names = 0
        self.written = 0

    def program(self) -> Program:
        pick = self._pick
        self._names = 0
        is_async = pick((False, True))
        fill = pick((False, False, True))
        raises = pick((False, False, False, False, True))
        cancel_ms = pick((None, None, None, None, 5_000, 45_000))
        flow = pick((*(None,) * len(FLOWS), *FLOWS))
        options = flow(pick) if flow else None
        return Program(self._nodes(0, 5), is_async, fill, raises, cancel_ms, options)

    def _nodes(self, depth: int, most: int) -> list[Any]:
        nodes = []
        for _ in range(self._pick(tuple(range(1, most + 1)))):
            self.written += 1
            number = self.written
            node = self._node(depth)
            if number not in self._cut:
                nodes.append(node)
        return nodes

    def _node(self, depth: int) -> Any:
        kinds = ["do", "do", "do", "sleep", "once", "catch", "race", "same", "wait", "ping", "child"]
        kinds += ["callback", "poll", "transact"]
        if depth < MAX_DEPTH:
            kinds += ["together", "together", "wide"]
        kind = self._pick(kinds)
        if kind == "do":
            return self._do()
        if kind == "once":
            return Do(self._name(), once=True, takes_ms=self._pick((0, 500)))
        if kind == "sleep":
            return Sleep(self._name(), self._pick((0, 3, 30, 1_200, 90_000)))
        if kind == "ping":
            return Ping(self._name())
        if kind == "callback":
            return self._callback()
        if kind == "poll":
            return Poll(
                self._name(), self._pick((0, 1, 3)), self._pick((2, 30, 1_200)), self._pick((None, 0, 45, 90_000))
            )
        if kind == "transact":
            return Transact(self._name(), self._pick((False, False, True)))
        if kind == "child":
            nodes = [self._do() for _ in range(self._pick((1, 2)))] + [Sleep(self._name(), self._pick((0, 30, 90_000)))]
            return Child(self._name(), nodes, self._pick((False, False, True)))
        if kind == "wait":
            sent_ms = self._pick((None, 0, 2_000, 40_000, 700_000, 1_200_000))
            return Wait(self._name(), self._pick((0, 3, 30, 1_200, 90_000)), sent_ms, self._pick((False, False, True)))
        if kind == "catch":
            how = self._pick(("error", "final", "exit", "dies"))
            return Catch(self._name(), self._pick((0, 1, 2)), self._do(), how)
        if kind == "race":
            return Race([self._do() for _ in range(self._pick((2, 3)))])
        if kind == "wide":
            return Together([[self._do()] for _ in range(self._pick((5, WIDEST)))], self._pick(("gather", "group")))
        if kind == "same":  # two steps of one name, told apart by their order
            name = self._name()
            return Together([[Do(name), Do(name, ordinal=2)]], "gather")
        branches = [self._nodes(depth + 1, 2) for _ in range(self._pick((2, 3)))]
        return Together(branches, self._pick(("gather", "group")))

    def _callback(self) -> Callback:
        pick = self._pick
        heartbeat = pick((None, None, 40))
        acts = [
            (pick((0, 2_000, 30_000, 1_200_000)), pick(("complete", "complete", "fail")))
            for _ in range(pick((0, 1, 1, 2)))
        ]
        acts += [(pick((0, 10_000, 30_000)) * n, "beat") for n in range(1, pick((1, 2, 5)))]
        return Callback(self._name(), pick((0, 3, 30, 1_200, 90_000)), acts, heartbeat, pick((0, 0, 1)))

    def _do(self) -> Do:
        fails = self._pick((0, 0, 0, 0, 1, 2))
        return Do(
            self._name(),
            fails,
            self._pick(FAILURES) if fails else "error",
            takes_ms=self._pick((0, 0, 100, 2_000)),
            large=self._pick((False,) * 7 + (True,)),
            is_async=self._pick((False, True)),
        )

    def _name(self) -> str:
        self._names += 1
        return f"s{self._names}"
