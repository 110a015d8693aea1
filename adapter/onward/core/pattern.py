"""Event patterns: which events of AWS services start a workflow, with EventBridge's own matching semantics.

A pattern has the shape of the event: objects name fields, and each field has a list of what its value may be. It
matches when every field that it names does, and a field matches when one of its values meets one of the list.

- A field is known by its path, its names joined by dots. Only leaves have values: a field that holds an object is
  absent, and so is one that holds an empty array. A null is a value.
- An array in the event stands for its elements: one that meets the list is enough. Where a pattern names several
  fields of objects in an array, one object must meet them all (array consistency). `{"exists": false}` asks it of the
  object that the fields before it, by path, have chosen.
- Strings compare by exact characters, but for two spellings of one IP address. Numbers compare as numbers (300 is
  3.0e2), and never with strings or booleans. A number that a double cannot tell from its neighbours is equal only to
  itself, and lies in no range.
- `anything-but` is met by a value of any type, and by any element of an array; a field that is absent does not meet it.
- `$or` stands for as many patterns as it has ways to be met, at most 1,000.

The rules are those of "Comparison operators for use in event patterns" in the EventBridge user guide and, where the
guide is silent, of aws/event-ruler, the library that EventBridge runs.
"""

from __future__ import annotations

from .errors import InvalidEvent, InvalidOption

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any, NoReturn

    Rule = list[tuple[str, list[Any]]]
    """What is left of a pattern when each `$or` is decided: paths, and what their values may be."""
    Place = frozenset[tuple[int, int]]
    """Where a value lies: for each array around it, which array, and which of its elements."""

MAX_PATTERN_BYTES = 4_096  # as JSON without spaces
MAX_DEPTH = 64
MAX_COMBINATIONS = 1_000  # of the alternatives of `$or`
MAX_ARRAYS = 64  # around one value of an event
MAX_PAIRS = 1_000_000  # of array elements that are held against each other for one event

OR = "$or"
# event-ruler takes no field of such a name inside `$or`
# fmt: off
_RESERVED_BESIDE_OR = frozenset((
    "exactly", "equals-ignore-case", "prefix", "suffix", "anything-but", "exists", "wildcard", "numeric", "cidr", "=",
    "<", "<=", ">", ">=", "regex", "not-wildcard", "not-equals-ignore-case", "date-after", "date-on-or-after",
    "date-before", "date-on-or-before", "in-date-range", "ip-address-in-range", "ip-address-not-in-range"
))
# fmt: on


# ------------------------------------------------------------------------------------------------- is it a pattern?
def check_pattern(pattern: object) -> None:
    """Raise `InvalidOption` unless EventBridge would take this pattern; the message names the path inside it."""
    _check_size(pattern)
    combinations = _check_fields(pattern, "", 0, False)
    if combinations > MAX_COMBINATIONS:
        raise InvalidOption(
            f"an event pattern has at most {MAX_COMBINATIONS} combinations of {OR!r}, not {combinations}: "
            "name fewer alternatives, or use where= for some of them"
        )
    for rule in _rules(pattern):  # type: ignore[arg-type]
        paths = [path for path, _ in rule]
        for path in paths:
            if paths.count(path) > 1:
                _refuse(path, f"a field is named once, and this one is named again (inside {OR!r}, or with a dot)")


def _refuse(path: str, reason: str) -> NoReturn:
    raise InvalidOption(f"event pattern, {f'at {path:.200}' if path else 'at its top'}: {reason}")


def _check_size(pattern: object) -> None:
    """Count bytes and stop at the limit, so that whatever looks at the pattern afterwards has little to look at."""
    from json import JSONEncoder

    size = 0
    encoder = JSONEncoder(ensure_ascii=False, separators=(",", ":"), skipkeys=True, default=lambda _: None)
    try:
        for part in encoder.iterencode(pattern):
            size += len(part.encode("utf-8", "surrogatepass"))
            if size > MAX_PATTERN_BYTES:
                _refuse("", f"it takes at most {MAX_PATTERN_BYTES} bytes as JSON, and this one has more")
    except RecursionError:
        _refuse("", f"it nests at most {MAX_DEPTH} objects, and this one nests more")
    except ValueError:
        _refuse("", "it contains itself")


def _check_fields(fields: object, path: str, depth: int, inside_or: bool) -> int:
    """How many combinations of `$or` these fields have."""
    if not isinstance(fields, dict):
        _refuse(path, f"fields stand in an object (dict), not in {fields!r:.80}")
    if not fields:
        _refuse(path, "an object names at least one field")
    if depth >= MAX_DEPTH:
        _refuse(path, f"it nests at most {MAX_DEPTH} objects, and this one nests more")
    combinations = 1
    for name, wanted in fields.items():
        if not isinstance(name, str):
            _refuse(path, f"the name of a field is a string, not {name!r:.80}")
        at = f"{path}.{name}" if path else name
        if name == OR:
            combinations *= _check_or(wanted, at, path, depth)
            continue
        if inside_or and name in _RESERVED_BESIDE_OR:
            _refuse(at, f"EventBridge takes no field called {name!r} inside {OR!r}")
        if isinstance(wanted, dict):
            combinations *= _check_fields(wanted, at, depth + 1, inside_or)
        else:
            _check_values(wanted, at)
    return combinations


def _check_or(options: object, at: str, path: str, depth: int) -> int:
    if not isinstance(options, list) or len(options) < 2:
        _refuse(at, f"{OR!r} takes a list of at least two objects, not {options!r:.80}")
    for option in options:
        if not isinstance(option, dict):
            _refuse(at, f"{OR!r} takes a list of objects, not of {option!r:.80}")
    return sum(_check_fields(option, path, depth + 1, True) for option in options)


def _check_values(wanted: object, at: str) -> None:
    if not isinstance(wanted, list):
        _refuse(at, f"what a field may be stands in a list: [{wanted!r:.80}]")
    if not wanted:
        _refuse(at, "the list of what a field may be is empty; for a field that is absent, write {'exists': False}")
    for value in wanted:
        if isinstance(value, dict):
            _check_operator(value, at)
        elif not (value is None or isinstance(value, str | bool) or _is_finite(value)):
            _refuse(at, f"a value is a string, a number, True, False, None or an operator, not {value!r:.80}")


def _check_operator(operation: dict[Any, Any], at: str) -> None:
    if len(operation) != 1:
        _refuse(at, f"an operator is an object with one name, not {operation!r:.80}; write several as several objects")
    [(operator, argument)] = operation.items()
    check = _CHECKS.get(operator)
    if check is None:
        _refuse(at, f"there is no operator {operator!r:.80}; there are {', '.join(_CHECKS)}")
    check(operator, argument, at)


def _check_text(operator: str, argument: object, at: str) -> None:
    if not isinstance(argument, str):
        _refuse(at, f"{operator!r} takes one string, not {argument!r:.80}; write several as several objects")


def _check_affix(operator: str, argument: object, at: str) -> None:
    if isinstance(argument, dict):
        if list(argument) != ["equals-ignore-case"]:
            _refuse(at, f"{operator!r} takes a string or {{'equals-ignore-case': string}}, not {argument!r:.80}")
        argument = argument["equals-ignore-case"]
    _check_text(operator, argument, at)


def _check_wildcard(operator: str, argument: object, at: str) -> None:
    _check_text(operator, argument, at)
    try:
        _segments(argument)  # type: ignore[arg-type]
    except ValueError as error:
        _refuse(at, f"{operator!r} {argument!r:.80}: {error}")


def _check_anything_but(operator: str, argument: object, at: str) -> None:
    if isinstance(argument, dict):
        _check_anything_but_operator(operator, argument, at)
        return
    values = argument if isinstance(argument, list) else [argument]
    if not values or not (
        all(isinstance(value, str) for value in values) or all(_is_comparable(value) for value in values)
    ):
        _refuse(
            at,
            f"{operator!r} takes a string, a number, a list of strings, a list of numbers or an operator, "
            f"not {argument!r:.80}",
        )


def _check_anything_but_operator(operator: str, argument: dict[Any, Any], at: str) -> None:
    inner, value = next(iter(argument.items()), (None, None))
    if len(argument) != 1 or inner not in _TEXT_OPERATORS:
        _refuse(at, f"{operator!r} takes one of the operators {', '.join(_TEXT_OPERATORS)}, not {argument!r:.80}")
    texts = value if isinstance(value, list) else [value]
    if not texts:
        _refuse(at, f"{operator!r} takes no empty list")
    for text in texts:
        _check_text(inner, text, at)
        if inner == "wildcard":
            _check_wildcard(inner, text, at)
        elif not text and inner != "equals-ignore-case":
            _refuse(at, f"{operator!r} of an empty {inner} is met by no string")


def _check_numeric(operator: str, argument: object, at: str) -> None:
    if not isinstance(argument, list) or len(argument) not in (2, 4):
        _refuse(at, f"{operator!r} takes a list such as ['>', 0] or ['>', 0, '<=', 5], not {argument!r:.80}")
    for number in argument[1::2]:
        if not _is_comparable(number):
            _refuse(at, f"{operator!r} compares with numbers that a double can hold, not with {number!r:.80}")
    signs = argument[::2]
    if len(signs) == 1:
        if not isinstance(signs[0], str) or signs[0] not in _COMPARISONS:
            _refuse(at, f"{operator!r} compares with {', '.join(_COMPARISONS)}, not with {signs[0]!r:.80}")
    elif signs[0] not in (">", ">=") or signs[1] not in ("<", "<="):
        _refuse(at, f"a range of {operator!r} is > or >= one number and < or <= another, not {argument!r:.80}")
    elif argument[1] >= argument[3]:
        _refuse(at, f"a range of {operator!r} goes from a lower number to a higher one, not {argument!r:.80}")


def _check_exists(operator: str, argument: object, at: str) -> None:
    if not isinstance(argument, bool):
        _refuse(at, f"{operator!r} takes True or False, not {argument!r:.80}")


def _check_cidr(operator: str, argument: object, at: str) -> None:
    block, _, bits = argument.partition("/") if isinstance(argument, str) else ("", "", "")
    address = _address(block)
    if address is None or not (bits.isascii() and bits.isdecimal() and len(bits) <= 3):
        _refuse(
            at,
            f"{operator!r} takes a block of addresses such as '10.0.0.0/24' or '2001:db8::/32', not {argument!r:.80}",
        )
    if int(bits) >= _BITS[address[0]]:
        _refuse(at, f"{operator!r} takes at most {_BITS[address[0]] - 1} bits here: a single address is a plain value")


# ------------------------------------------------------------------------------------------------- does it match?
def matches(pattern: dict[str, Any], event: dict[str, Any]) -> bool:
    """Whether this event, in EventBridge's envelope (`source`, `detail-type`, `detail` ...), matches the pattern, which
    `check_pattern` has passed. Raises `InvalidEvent` where the event nests arrays so deep or so wide that to find out
    would take too long."""
    rules = _rules(pattern)
    leaves = _Leaves(event, {path for rule in rules for path, _ in rule})
    return any(leaves.meet(rule) for rule in rules)


def _rules(fields: dict[str, Any], prefix: str = "") -> list[Rule]:
    """The patterns without `$or` of which one must be met."""
    rules: list[Rule] = [[]]
    for name, wanted in fields.items():
        if name == OR:
            ways = [rule for option in wanted for rule in _rules(option, prefix)]
        elif isinstance(wanted, dict):
            ways = _rules(wanted, f"{prefix}{name}.")
        else:
            ways = [[(f"{prefix}{name}", wanted)]]
        rules = [rule + way for rule in rules for way in ways]
    return rules


class _Leaves:
    """The values of an event, by path, each with its place in the arrays around it.

    A rule is met path by path. What is carried from one path to the next is the set of places that the values before
    may have chosen, reduced to those arrays that later paths lie in; so a thousand objects stay a thousand places, and
    two arrays beside each other do not multiply.
    """

    __slots__ = ("_arrays", "_found", "_pairs", "_values")

    def __init__(self, event: dict[str, Any], paths: set[str]) -> None:
        self._values: dict[str, list[tuple[Any, Place]]] = {path: [] for path in paths}
        self._read(event)
        self._arrays = {
            path: frozenset(array for _, place in values for array, _ in place) for path, values in self._values.items()
        }
        self._found: dict[tuple[str, int], set[Place]] = {}
        self._pairs = 0

    def _read(self, event: dict[str, Any]) -> None:
        ahead = {path[:at] for path in self._values for at, char in enumerate(path) if char == "."}
        ahead.update(self._values)
        numbers: dict[tuple[int, str | None], int] = {}  # of every position in the shape of the event
        elements = 0
        stack: list[tuple[Any, str | None, int, Place]] = [(event, None, 0, frozenset())]
        while stack:
            node, path, shape, place = stack.pop()
            if isinstance(node, dict):
                for name, child in node.items():
                    at = name if path is None else f"{path}.{name}"
                    if at in ahead:
                        stack.append((child, at, numbers.setdefault((shape, name), len(numbers) + 1), place))
            elif isinstance(node, list | tuple):
                if len(place) >= MAX_ARRAYS:
                    raise InvalidEvent(f"the event nests more than {MAX_ARRAYS} arrays at {path:.200}")
                inner = numbers.setdefault((shape, None), len(numbers) + 1)
                for child in node:
                    elements += 1
                    nested = isinstance(child, dict | list | tuple)
                    stack.append((child, path, inner, place | {(shape, elements)} if nested else place))
            elif path in self._values:
                self._values[path].append((node, place))

    def meet(self, rule: Rule) -> bool:
        rule = sorted(rule, key=lambda field: field[0].split("."))  # so that the paths of one array stand together
        chosen: set[Place] = {frozenset()}
        for position, (path, wanted) in enumerate(rule):
            later = frozenset(array for after, _ in rule[position + 1 :] for array in self._arrays[after])
            following: set[Place] = set()
            if any(value == {"exists": False} for value in wanted):
                present = self._pair(chosen, {place for _, place in self._values[path]}, frozenset())
                following.update(_within(place, later) for place in chosen.difference(before for before, _ in present))
            found = self._pair(chosen, self._meeting(path, wanted), later)
            following.update(_within(before | place, later) for before, place in found)
            chosen = following
            if not chosen:
                return False
        return True

    def _meeting(self, path: str, wanted: list[Any]) -> set[Place]:
        """The places of those values of this path that meet the list."""
        found = self._found.get((path, id(wanted)))
        if found is None:
            found = {place for value, place in self._values[path] if any(_meets(value, one) for one in wanted)}
            self._found[path, id(wanted)] = found
        return found

    def _pair(self, chosen: set[Place], places: set[Place], later: frozenset[int]) -> Iterator[tuple[Place, Place]]:
        """What was chosen with each place that agrees with it: where both lie in one array, in one element of it."""
        needed = later.union(array for place in chosen for array, _ in place)
        candidates = _by_arrays({_within(place, needed) for place in places})
        for arrays, befores in _by_arrays(chosen).items():
            for other, group in candidates.items():
                shared = arrays & other
                agreeing: dict[Place, list[Place]] = {}
                for place in group:
                    agreeing.setdefault(_within(place, shared), []).append(place)
                for before in befores:
                    for place in agreeing.get(_within(before, shared), ()):
                        self._pairs += 1
                        if self._pairs > MAX_PAIRS:
                            raise InvalidEvent(
                                f"an event pattern would have to look at more than {MAX_PAIRS} pairs of array elements "
                                "of this event"
                            )
                        yield before, place


def _within(place: Place, arrays: frozenset[int]) -> Place:
    return frozenset(step for step in place if step[0] in arrays) if place else place


def _by_arrays(places: Iterable[Place]) -> dict[frozenset[int], list[Place]]:
    groups: dict[frozenset[int], list[Place]] = {}
    for place in places:
        groups.setdefault(frozenset(array for array, _ in place), []).append(place)
    return groups


def _meets(value: Any, wanted: Any) -> bool:
    """Whether one value of an event meets one entry of a list."""
    if isinstance(wanted, dict):
        [(operator, argument)] = wanted.items()
        return _OPERATORS[operator](value, argument)
    if isinstance(wanted, str):
        return isinstance(value, str) and (value == wanted or _same_address(value, wanted))
    if wanted is None or isinstance(wanted, bool):
        return value is wanted
    return _is_finite(value) and bool(value == wanted)


# ---------------------------------------------------------------------------------------------------- the operators
def _prefix(value: Any, argument: Any) -> bool:
    if not isinstance(value, str):
        return False
    if isinstance(argument, dict):
        return bool(_ends_of_folded(value, argument["equals-ignore-case"]))
    return value.startswith(argument)


def _suffix(value: Any, argument: Any) -> bool:
    if not isinstance(value, str):
        return False
    if isinstance(argument, dict):
        return bool(_starts_of_folded(value, argument["equals-ignore-case"]))
    return value.endswith(argument)


def _equals_ignore_case(value: Any, argument: str) -> bool:
    return isinstance(value, str) and len(value) in _ends_of_folded(value, argument)


def _cases(char: str) -> set[str]:
    """event-ruler folds character by character: each may stand in its lower or its upper case, which can be longer."""
    return {char, char.lower(), char.upper()}


def _ends_of_folded(text: str, wanted: str) -> set[int]:
    """Where `wanted` may end if it stands, in whatever case, at the start of `text`."""
    ends = {0}
    for char in wanted:
        ends = {end + len(case) for case in _cases(char) for end in ends if text.startswith(case, end)}
    return ends


def _starts_of_folded(text: str, wanted: str) -> set[int]:
    """Where `wanted` may start if it stands, in whatever case, at the end of `text`."""
    starts = {len(text)}
    for char in reversed(wanted):
        starts = {start - len(case) for case in _cases(char) for start in starts if text.endswith(case, 0, start)}
    return starts


def _wildcard(value: Any, argument: str) -> bool:
    """Each segment where it first fits: no place further on could leave more room to the segments after it."""
    if not isinstance(value, str):
        return False
    first, *between = _segments(argument)
    if not between:
        return value == first
    last = between.pop()
    position, end = len(first), len(value) - len(last)
    if position > end or not value.startswith(first) or not value.endswith(last):
        return False
    for segment in between:
        position = value.find(segment, position, end)
        if position < 0:
            return False
        position += len(segment)
    return True


def _segments(argument: str) -> list[str]:
    """The literal texts between the wildcards; raises `ValueError` with the reason."""
    segments = [""]
    chars = iter(argument)
    before = ""
    for char in chars:
        if char == "*":
            if before == "*":
                raise ValueError("it has two wildcards side by side: one is enough")
            segments.append("")
        elif char == "\\":
            escaped = next(chars, "")
            if escaped not in ("*", "\\"):
                raise ValueError(r"a backslash stands before * or another backslash: \* or \\")
            segments[-1] += escaped
        else:
            segments[-1] += char
        before = char
    return segments


def _anything_but(value: Any, argument: Any) -> bool:
    if isinstance(argument, dict):
        [(operator, texts)] = argument.items()
        test = _OPERATORS[operator]
        return not any(test(value, text) for text in (texts if isinstance(texts, list) else [texts]))
    for unwanted in argument if isinstance(argument, list) else [argument]:
        if value == unwanted and not isinstance(value, bool):
            return False
    return True


_COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "=": lambda value, number: bool(value == number),
    "<": lambda value, number: bool(value < number),
    "<=": lambda value, number: bool(value <= number),
    ">": lambda value, number: bool(value > number),
    ">=": lambda value, number: bool(value >= number),
}


def _numeric(value: Any, argument: list[Any]) -> bool:
    return _is_comparable(value) and all(
        _COMPARISONS[sign](value, number) for sign, number in zip(argument[::2], argument[1::2], strict=True)
    )


def _is_finite(value: object) -> bool:
    """Whether this is a number of JSON."""
    if isinstance(value, float):
        return value - value == 0.0
    return isinstance(value, int) and not isinstance(value, bool)


def _is_comparable(value: object) -> bool:
    """Whether this is a number that a double writes as it is written."""
    if not _is_finite(value):
        return False
    if isinstance(value, float) or abs(value) <= 2**53:  # type: ignore[arg-type]
        return True
    from decimal import Decimal

    try:
        return Decimal(repr(float(value))) == value  # type: ignore[arg-type]
    except OverflowError:
        return False


_BITS = {4: 32, 6: 128}  # of an address, by version


def _address(text: str) -> tuple[int, int] | None:
    """An IP address as its version and number."""
    if not (text.count(".") == 3 or ":" in text) or text.strip("0123456789abcdefABCDEF.:"):
        return None
    from ipaddress import ip_address

    try:
        address = ip_address(text)
    except ValueError:
        return None
    mapped = getattr(address, "ipv4_mapped", None)
    address = address if mapped is None else mapped
    return address.version, int(address)


def _same_address(value: str, wanted: str) -> bool:
    address = _address(wanted)
    return address is not None and address == _address(value)


def _cidr(value: Any, argument: str) -> bool:
    address = _address(value) if isinstance(value, str) else None
    block, _, bits = argument.partition("/")
    base = _address(block)
    if address is None or base is None or address[0] != base[0]:
        return False
    return (address[1] ^ base[1]) >> (_BITS[base[0]] - int(bits)) == 0


_TEXT_OPERATORS = ("prefix", "suffix", "equals-ignore-case", "wildcard")  # what anything-but may hold
_CHECKS: dict[str, Callable[[str, object, str], None]] = {
    "prefix": _check_affix,
    "suffix": _check_affix,
    "equals-ignore-case": _check_text,
    "wildcard": _check_wildcard,
    "anything-but": _check_anything_but,
    "numeric": _check_numeric,
    "exists": _check_exists,
    "cidr": _check_cidr,
}
_OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "prefix": _prefix,
    "suffix": _suffix,
    "equals-ignore-case": _equals_ignore_case,
    "wildcard": _wildcard,
    "anything-but": _anything_but,
    "numeric": _numeric,
    "exists": lambda _, argument: bool(argument),  # what is absent is no value, and is looked for elsewhere
    "cidr": _cidr,
}
