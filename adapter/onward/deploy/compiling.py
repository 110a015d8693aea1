"""Source files to bytecode, by the interpreter that is to run it: `python3.13 -X no_debug_ranges compiling.py < jobs`.

A script of its own, because bytecode fits one minor version of Python. A job is [source, destination, name, is_lean]:
`name` is what tracebacks show; a lean file loses what costs bytes and time and is read by nobody on Lambda: docstrings,
annotations of functions, and blocks under `if TYPE_CHECKING:`. Line numbers stay. Each file is marked as one that is
not to be held against its source (PEP 552, unchecked hash): on Lambda that could only cost time.
"""

from __future__ import annotations

import ast
import importlib.util
import json
import marshal
import sys
from pathlib import Path
from typing import Any

UNCHECKED_HASH = 0b01


class Lean(ast.NodeTransformer):
    """Takes out of a module what only readers and type checkers need. Annotations in the body of a class stay: a
    NamedTuple is made of them."""

    def __init__(self) -> None:
        self._in_class = False

    def visit_Module(self, node: ast.Module) -> Any:
        self.generic_visit(node)
        if not any(isinstance(found, ast.Attribute) and found.attr == "__doc__" for found in ast.walk(node)):
            for inner in ast.walk(node):
                if isinstance(inner, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                    _drop_docstring(inner)
        return node

    def visit_ClassDef(self, node: ast.ClassDef) -> Any:
        outer, self._in_class = self._in_class, True
        self.generic_visit(node)
        self._in_class = outer
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> Any:
        return self._visit_function(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> Any:
        return self._visit_function(node)

    def _visit_function(self, node: Any) -> Any:
        outer, self._in_class = self._in_class, False
        self.generic_visit(node)
        self._in_class = outer
        node.returns = None
        arguments = node.args
        for argument in (
            *arguments.posonlyargs,
            *arguments.args,
            *arguments.kwonlyargs,
            arguments.vararg,
            arguments.kwarg,
        ):
            if argument is not None:
                argument.annotation = None
        return node

    def visit_If(self, node: ast.If) -> Any:
        self.generic_visit(node)
        if isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            return node.orelse or ast.copy_location(ast.Pass(), node)
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> Any:
        self.generic_visit(node)
        if self._in_class:
            return node
        if node.value is None:
            return ast.copy_location(ast.Pass(), node)
        return ast.copy_location(ast.Assign([node.target], node.value), node)


def _drop_docstring(node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> None:
    first = node.body[0] if node.body else None
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
        node.body = node.body[1:] or [ast.copy_location(ast.Pass(), first)]


def compiled(source: bytes, name: str, is_lean: bool) -> bytes:
    """The content of a .pyc file."""
    tree = ast.parse(source, name)
    if is_lean:
        tree = ast.fix_missing_locations(Lean().visit(tree))
    code = compile(tree, name, "exec", dont_inherit=True)
    # What is written depends on who else holds a string. After one reading nobody does: equal sources, equal files.
    body = marshal.dumps(marshal.loads(marshal.dumps(code)))
    head = importlib.util.MAGIC_NUMBER + UNCHECKED_HASH.to_bytes(4, "little")
    return head + importlib.util.source_hash(source) + body


def main() -> None:
    for source, destination, name, is_lean in json.load(sys.stdin):
        content = compiled(Path(source).read_bytes(), name, is_lean)
        Path(destination).parent.mkdir(parents=True, exist_ok=True)
        Path(destination).write_bytes(content)


if __name__ == "__main__":
    main()
