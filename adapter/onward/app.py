"""An app: the workflows of one deployment, by name and by the event that starts them."""

from __future__ import annotations

from .core.errors import InvalidEvent, InvalidName, InvalidOption, UnknownWorkflow
from .core.retry import Retry
from .core.values import MAX_NAME_CHARS, OWN_EVENTS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from datetime import datetime
    from typing import Any, Unpack

    from .core.values import Event
    from .flow import Flow, FlowOptions
    from .middleware import Middleware
    from .triggers import Pattern, Schedule

    Trigger = str | Pattern | Schedule
    Handler = Callable[[Any, Any], Any]

MAX_TRIGGERS = 10  # of one workflow
MAX_STEPS = 10_000  # of one run, unless the workflow says otherwise
_CO_COROUTINE = 0x80  # the flag of a code object that `async def` made (inspect.CO_COROUTINE)


def check_name(what: str, name: object) -> str:
    if not isinstance(name, str) or not 1 <= len(name) <= MAX_NAME_CHARS:
        raise InvalidName(f"{what} is a string of 1 to {MAX_NAME_CHARS} characters, not {name!r:.80}")
    return name


def check_triggers(on: object) -> tuple[Trigger, ...]:
    triggers = on if isinstance(on, list | tuple) else [on]
    if not 1 <= len(triggers) <= MAX_TRIGGERS:
        raise InvalidOption(f"on= takes one trigger, or a list of 1 to {MAX_TRIGGERS}, not of {len(triggers)}")
    for trigger in triggers:
        if not _is_trigger(trigger):
            raise InvalidOption(
                f'on= takes names of events, pattern({{...}}) and cron("..."), or a list of these, not {trigger!r:.80}'
            )
    return tuple(triggers)


def _is_trigger(trigger: object) -> bool:
    if isinstance(trigger, str):
        check_name("on=", trigger)
        if trigger.startswith(OWN_EVENTS):
            raise InvalidOption(f"on= names {trigger!r:.80}: events that begin with {OWN_EVENTS!r} are Onward's own")
        return True
    from .triggers import Pattern, Schedule

    return isinstance(trigger, Pattern | Schedule)


def check_middleware(middleware: object) -> tuple[Middleware, ...]:
    from .middleware import Middleware

    given = middleware if isinstance(middleware, list | tuple) else [middleware]
    for one in given:
        if not isinstance(one, Middleware):
            raise InvalidOption(f"middleware= takes objects of classes derived from onward.Middleware, not {one!r:.80}")
    return tuple(given)


def name_fits(pattern: str, name: str) -> bool:
    """Whether the name of an event fits one that may have `*` in it, each for any characters, none included."""
    first, *others = pattern.split("*")
    if not others:
        return pattern == name
    at = len(first)
    if not name.startswith(first):
        return False
    for part in others[:-1]:
        found = name.find(part, at)
        if found < 0:
            return False
        at = found + len(part)
    return len(name) - at >= len(others[-1]) and name.endswith(others[-1])


class Workflow:
    """A workflow function with its triggers and options. Calling it calls the function."""

    __slots__ = (
        "fill",
        "flow",
        "fn",
        "is_async",
        "max_steps",
        "name",
        "on",
        "on_cancel",
        "on_failure",
        "retry",
        "where",
    )

    def __init__(
        self,
        fn: Callable[..., Any],
        name: str,
        on: tuple[Trigger, ...],
        retry: Retry,
        max_steps: int,
        fill: bool,
        *,
        where: Callable[[Event], Any] | None = None,
        on_failure: Workflow | None = None,
        on_cancel: Workflow | None = None,
        flow: Flow | None = None,
    ) -> None:
        self.fn = fn
        self.name = name
        self.on = on
        self.retry = retry
        self.on_failure = on_failure
        self.max_steps = max_steps
        self.fill = fill
        self.where = where
        self.on_cancel = on_cancel
        self.flow = flow
        code = getattr(fn, "__code__", None)
        self.is_async = bool(code is not None and code.co_flags & _CO_COROUTINE)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.fn(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<workflow {self.name!r} on {', '.join(map(str, self.on)) or 'nothing'}>"

    def hears(self, event: Event) -> bool:
        """Whether the event starts it, unless `where` says no. Raises `InvalidEvent` where a pattern cannot tell."""
        for trigger in self.on:
            if isinstance(trigger, str):
                if name_fits(trigger, event.name):
                    return True
            elif hasattr(trigger, "fits") and trigger.fits(event):
                return True
        return False

    @property
    def schedules(self) -> list[Schedule]:
        """The times in its triggers."""
        return [trigger for trigger in self.on if not isinstance(trigger, str) and not hasattr(trigger, "fits")]


class App:
    """A named set of workflows: `app = App("catalog")`, then `@app.workflow(on="pricing/sync.requested")`.

    `middleware`: what is done around all that they do, in this order (see `onward.middleware`).
    `pin_versions`: a run goes on with the version of the Lambda function that has started it, whatever is deployed
    meanwhile. Off unless you say so: then a run goes on with the code that is there."""

    def __init__(self, name: str, *, middleware: Sequence[Middleware] = (), pin_versions: bool = False) -> None:
        self.name = check_name("the name of an app", name)
        if not isinstance(pin_versions, bool):
            raise InvalidOption(f"pin_versions= takes True or False, not {pin_versions!r:.80}")
        self.pin_versions = pin_versions
        self.middleware = check_middleware(middleware) if middleware else ()
        self._workflows: dict[str, Workflow] = {}

    def workflow(
        self,
        *,
        on: Trigger | Sequence[Trigger],
        where: Callable[[Event], Any] | None = None,
        name: str | None = None,
        retries: int | Retry = 4,
        on_failure: Callable[..., Any] | None = None,
        on_cancel: Callable[..., Any] | None = None,
        max_steps: int = MAX_STEPS,
        steps_per_invocation: int | str = 1,
        **flow: Unpack[FlowOptions],
    ) -> Callable[[Callable[..., Any]], Workflow]:
        """Make a function `(event, step)` a workflow that each event starts which is named in `on`: a name, one with
        `*` in it ("order/*"), a `pattern({...})` of EventBridge, a `cron("...")`, or a list of up to 10 of these.

        `where`: a function of the event that must say yes as well; where it raises, the event starts nothing, and the
        log says why.
        `name`: the function's own unless given; runs are found under it, so keep it when you rename the function.
        `retries`: how often a failed step is tried again: a number (default 4: five attempts) or a `Retry`.
        `on_failure`: a function `(event, step)`, itself a workflow, that is run when a run of this one has failed;
        its event is named `onward/run.failed` and its data has `run_id`, `workflow`, `error` and `event`.
        `on_cancel`: the same for a run that was cancelled; its event is named `onward/run.cancelled`.
        `max_steps`: a run that calls more steps than this fails. `steps_per_invocation`: 1 (default), or "fill" to
        perform as many as fit in the time that is left to an invocation.
        `flow`: how many runs start, when, and how long they may take (see `onward.flow`): `idempotency`, `singleton`,
        `rate_limit`, `debounce`, `batch`, `throttle`, `delay`, `concurrency`, `priority`, `cancel_on`, `start_timeout`
        and `finish_timeout`. Raises `InvalidOption` for what makes no sense.
        """
        retry = Retry.of(retries)
        triggers = check_triggers(on)
        if where is not None and not callable(where):
            raise InvalidOption(f"where= takes a function of the event, not {type(where).__name__}")
        if isinstance(max_steps, bool) or not isinstance(max_steps, int) or not 1 <= max_steps <= 1_000_000:
            raise InvalidOption(f"max_steps= takes 1 to 1,000,000, not {max_steps!r}")
        if steps_per_invocation not in (1, "fill"):
            raise InvalidOption(f'steps_per_invocation= takes 1 or "fill", not {steps_per_invocation!r}')
        for option, after in (("on_failure", on_failure), ("on_cancel", on_cancel)):
            if after is not None and not callable(after):
                raise InvalidOption(f"{option}= takes a function (event, step), not {type(after).__name__}")
        fill = steps_per_invocation == "fill"
        limits = None
        if flow:
            from .flow import Flow

            limits = Flow(flow)

        def register(fn: Callable[..., Any]) -> Workflow:
            if not callable(fn):
                raise InvalidOption(f"@app.workflow decorates a function (event, step), not {type(fn).__name__}")
            own_name = check_name("the name of a workflow", getattr(fn, "__name__", "") if name is None else name)
            afters = {
                option: self._add(Workflow(after, f"{own_name}.{option}", (), retry, max_steps, fill))
                for option, after in (("on_failure", on_failure), ("on_cancel", on_cancel))
                if after is not None
            }
            workflow = Workflow(fn, own_name, triggers, retry, max_steps, fill, where=where, flow=limits, **afters)
            return self._add(workflow)

        return register

    def _add(self, workflow: Workflow) -> Workflow:
        if workflow.name in self._workflows:
            raise InvalidName(
                f"app {self.name!r} has two workflows called {workflow.name!r}: give one of them name=..."
            )
        self._workflows[workflow.name] = workflow
        return workflow

    def __getitem__(self, name: str) -> Workflow:
        """The workflow of that name; raises `UnknownWorkflow`, which names those that there are."""
        workflow = self._workflows.get(name)
        if workflow is None:
            raise UnknownWorkflow(
                f"app {self.name!r} has no workflow {name!r}; it has {', '.join(sorted(self._workflows)) or 'none'}"
            )
        return workflow

    def __iter__(self) -> Iterator[Workflow]:
        return iter(self._workflows.values())

    def send(
        self,
        name: str,
        data: Any = None,
        *,
        id: str | None = None,
        at: datetime | float | None = None,
        to: str | None = None,
    ) -> str:
        """Send an event to the deployed app from any Python process, and return its id.

        `data`: plain JSON (None unless given). `id`: the same event again starts nothing again; a fresh one unless
        given. `at`: a datetime (naive: UTC) or epoch seconds, up to 366 days ahead, for a delayed start. `to`: a bus
        (name or ARN of EventBridge's) or the URL of an HTTP door; unless given, what ONWARD_URL says, or else
        ONWARD_BUS. A bus is reached over Onward's own wire on Lambda and through boto3 elsewhere; a door is signed for
        with the first key of ONWARD_KEYS ("id:secret"), or by IAM.

        Returns when the event is accepted; it is delivered at least once, and starts its runs once. Raises
        `InvalidEvent` or `NotEncodable` for what cannot be sent, `Misconfigured` (`AccessRefused`, `NoCredentials`)
        where the way is not open, and `Unavailable` where the same event can be sent again, with its `id`.
        """
        return self.send_many([{"name": name, "data": data, "id": id, "at": at}], to=to)[0]

    def send_many(self, events: Iterable[Mapping[str, Any]], *, to: str | None = None) -> list[str]:
        """Send events, each `{"name": ..., "data": ..., "id": ..., "at": ...}` (only the name is needed), as few
        requests as there can be, and return their ids in order. All are checked before the first is sent; where a
        request fails, those before it are sent: repeat it with the same ids."""
        from .entry.send import send

        given = []
        for event in events:
            unknown = set(event) - {"name", "data", "id", "at"}
            if unknown or "name" not in event:
                raise InvalidEvent(
                    f'an event to send is {{"name": ..., "data": ..., "id": ..., "at": ...}}, not one with '
                    f"{', '.join(sorted(map(str, event))) or 'nothing'}"
                )
            given.append((event["name"], event.get("data"), event.get("id"), event.get("at")))
        return send(self.name, given, to)

    def handler(self, **options: Any) -> Handler:
        """The Lambda handler of this app: `handler = app.handler()` in the module that is deployed. It reads its
        settings from the environment (see the README) and opens its connections now, at INIT."""
        from .entry.aws import handler

        return handler(self, **options)

    def http_handler(self, **options: Any) -> Handler:
        """The Lambda handler of this app's HTTP door (see `onward.web.door`), for a function of its own:
        `handler = app.http_handler()`. Needs `onward[web]`."""
        from .entry.http import handler

        return handler(self, **options)
