"""Onward: durable workflows for Python that run on your own AWS account.

    from onward import App

    app = App("catalog")

    @app.workflow(on="pricing/sync.requested")
    def sync_pricing(event, step):
        items = step.run("fetch-items", fetch_items, event.data["feed"])
        ...

The names below are loaded when they are first used: a cold Lambda pays for no module that its step does not need.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .app import App, Workflow
    from .core.errors import (
        DefinitionError,
        Drift,
        Fault,
        KeyMissing,
        LeaveSwallowed,
        MiddlewareFailed,
        NonRetriable,
        NotEncodable,
        OnwardError,
        PayloadCorrupt,
        RetryAfter,
        StepError,
        StepTimeout,
    )
    from .core.retry import Retry
    from .core.values import Event
    from .encryption import Encryption
    from .flow import (
        Batch,
        CancelOn,
        Concurrency,
        Debounce,
        Idempotency,
        RateLimit,
        Singleton,
        Throttle,
    )
    from .middleware import CurrentRun, Middleware, StepCall
    from .step import AsyncStep, CurrentStep, Step, current_step
    from .triggers import cron, pattern

__version__ = "0.1.0"

_HOMES = {
    "app": ("App", "Workflow"),
    "core.errors": (
        "DefinitionError",
        "Drift",
        "Fault",
        "KeyMissing",
        "LeaveSwallowed",
        "MiddlewareFailed",
        "NonRetriable",
        "NotEncodable",
        "OnwardError",
        "PayloadCorrupt",
        "RetryAfter",
        "StepError",
        "StepTimeout",
    ),
    "core.retry": ("Retry",),
    "core.values": ("Event",),
    "encryption": ("Encryption",),
    "middleware": ("CurrentRun", "Middleware", "StepCall"),
    "flow": (
        "Batch",
        "CancelOn",
        "Concurrency",
        "Debounce",
        "Idempotency",
        "RateLimit",
        "Singleton",
        "Throttle",
    ),
    "step": ("AsyncStep", "CurrentStep", "Step", "current_step"),
    "triggers": ("cron", "pattern"),
}

__all__ = [
    "App",
    "AsyncStep",
    "Batch",
    "CancelOn",
    "Concurrency",
    "CurrentRun",
    "CurrentStep",
    "Debounce",
    "DefinitionError",
    "Drift",
    "Encryption",
    "Event",
    "Fault",
    "Idempotency",
    "KeyMissing",
    "LeaveSwallowed",
    "Middleware",
    "MiddlewareFailed",
    "NonRetriable",
    "NotEncodable",
    "OnwardError",
    "PayloadCorrupt",
    "RateLimit",
    "Retry",
    "RetryAfter",
    "Singleton",
    "Step",
    "StepCall",
    "StepError",
    "StepTimeout",
    "Throttle",
    "Workflow",
    "cron",
    "current_step",
    "pattern",
]


def __getattr__(name: str) -> object:
    for home, names in _HOMES.items():
        if name in names:
            module = __import__(f"{__name__}.{home}", fromlist=[name])
            value: object = getattr(module, name)
            globals()[name] = value
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
