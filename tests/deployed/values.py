"""CloudFormation's intrinsic functions, as far as our templates use them: `Ref`, `Fn::GetAtt`, `Fn::Sub`, `Fn::If` and
what conditions are made of. What is not known here fails loudly."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

NO_VALUE = object()
_PLACE = re.compile(r"\$\{([^!}][^}]*)\}")


class Values:
    """Evaluates what stands in a template. `parameters`: their values; `attributes`: of each resource that stands, with
    "Ref" for what a `Ref` to it gives."""

    def __init__(self, template: Mapping[str, Any], parameters: Mapping[str, Any], pseudo: Mapping[str, str]) -> None:
        self._conditions = template.get("Conditions", {})
        given = {name: block.get("Default") for name, block in template.get("Parameters", {}).items()}
        unknown = set(parameters) - set(given)
        assert not unknown, f"the template has no parameters {unknown}"
        self._names: dict[str, Any] = {**pseudo, **given, **parameters, "AWS::NoValue": NO_VALUE}
        self.attributes: dict[str, dict[str, Any]] = {}

    def of(self, value: Any) -> Any:
        """The value, with every function in it evaluated; properties without a value are left out."""
        if isinstance(value, list):
            return [found for found in map(self.of, value) if found is not NO_VALUE]
        if not isinstance(value, dict):
            return value
        if len(value) == 1:
            (name, argument), *_ = value.items()
            function = getattr(self, f"_{name.replace('::', '_').lower()}", None)
            if function is not None:
                return function(argument)
            assert not name.startswith("Fn::"), f"{name} is not known here"
        return {name: found for name, inner in value.items() if (found := self.of(inner)) is not NO_VALUE}

    def holds(self, condition: str) -> bool:
        return bool(self.of(self._conditions[condition]))

    def _ref(self, name: str) -> Any:
        return self._names[name] if name in self._names else self.attributes[name]["Ref"]

    def _fn_getatt(self, path: Any) -> Any:
        resource, attribute = path.split(".", 1) if isinstance(path, str) else path
        return self.attributes[resource][attribute]

    def _fn_sub(self, text: str) -> str:
        assert isinstance(text, str), "Fn::Sub with names of its own is not known here"

        def place(found: re.Match[str]) -> str:
            name = found[1]
            return str(self._fn_getatt(name) if "." in name else self._ref(name))

        return _PLACE.sub(place, text)

    def _fn_if(self, argument: Any) -> Any:
        condition, then, otherwise = argument
        return self.of(then if self.holds(condition) else otherwise)

    def _fn_equals(self, argument: Any) -> bool:
        one, other = map(self.of, argument)
        return bool(str(one) == str(other))

    def _fn_not(self, argument: Any) -> bool:
        return not self.of(argument[0])
