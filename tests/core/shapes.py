"""Types of a user's module, for values that go to the log and back."""

from __future__ import annotations

import dataclasses
import datetime
import enum
from decimal import Decimal
from typing import Any
from uuid import UUID

import pydantic
from pydantic.alias_generators import to_camel


class Color(enum.Enum):
    RED = "red"
    PAIR = (1, "one")


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Word(enum.StrEnum):
    YES = "yes"


class Right(enum.Flag):
    READ = enum.auto()
    WRITE = enum.auto()


@dataclasses.dataclass
class Price:
    sku: str
    amount: Decimal
    tags: tuple[str, ...] = ()
    extra: Any = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Frozen:
    key: UUID
    at: datetime.datetime | None = None


@dataclasses.dataclass
class Derived:
    width: int
    area: int = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        self.area = self.width**2


@dataclasses.dataclass
class Basket:
    lines: list[Line]
    color: Color = Color.RED


@dataclasses.dataclass
class Line:
    sku: str
    count: int


class Outer:
    @dataclasses.dataclass
    class Inner:
        n: int


class Item(pydantic.BaseModel):
    sku: str
    amount: Decimal
    seen: datetime.datetime | None = None


class Order(pydantic.BaseModel):
    """As APIs have them: camel case outside, nothing extra, and a field that is computed."""

    model_config = pydantic.ConfigDict(
        alias_generator=to_camel,
        extra="forbid",
    )
    order_id: int
    line_items: list[Item] = []

    @pydantic.computed_field
    @property
    def size(self) -> int:
        return len(self.line_items)
