"""The settings that a class or function takes: their names and types.

They are read from an object, or from the source of this project without importing it: a mistake in a config is then
told before torch and MONAI, which take seconds, are imported.
"""

import ast
import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import NoneType
from typing import Any, Literal, Union, get_type_hints

from sct.config.source import find, find_in, written
from sct.config.trust import LIBRARIES

# what a name in an annotation means; all other names accept any value, as in sct.config.hints
TYPES: dict[str, Any] = {
    "int": int,
    "float": float,
    "str": str,
    "bool": bool,
    "list": list,
    "dict": dict,
    "Sequence": Sequence,
    "Mapping": Mapping,
}
# parameters of a library's function that are no settings
UNNAMED = ("self", "args", "kwargs")
# bases that add no settings to a class
PLAIN_BASES = ("ABC", "Protocol", "nn.Module")


@dataclass(frozen=True)
class Signature:
    """Names of all settings, and their type hints: those of other projects are not reliable, and left out.

    handed_over: what the program itself gives to a part, such as the number of classes. It is no setting. Only the
    source tells it: a class of this project explains each of its settings in its docstring, and nothing else.
    """

    names: list[str]
    hints: dict[str, Any]
    handed_over: tuple[str, ...] = ()


class UnclearError(Exception):
    """The source alone does not tell what a class takes."""


def object_signature(target: Any) -> Signature:
    """The signature of an imported class or function."""
    if target.__module__.split(".")[0] in LIBRARIES:
        return Signature([name for name in inspect.signature(target).parameters if name not in UNNAMED], {})
    names: list[str] = []
    hints: dict[str, Any] = {}
    for function in initialisers(target) if inspect.isclass(target) else [target]:
        known = type_hints(function)
        for name in parameters(function):
            if name not in names:
                names.append(name)
                hints |= {name: known[name]} if name in known else {}
    return Signature(names, hints)


def initialisers(target: type) -> Iterator[Any]:
    """The `__init__` of a class, and those of its bases to which `**settings` hands settings on."""
    for base in target.__mro__:
        if "__init__" in vars(base) and base is not object:
            function = vars(base)["__init__"]
            yield function
            if not any(p.kind is p.VAR_KEYWORD for p in inspect.signature(function).parameters.values()):
                return


def parameters(function: Any) -> list[str]:
    """Names of what a function takes, without `self` and without what has no name."""
    found = inspect.signature(function).parameters.values()
    return [p.name for p in found if p.name != "self" and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]


def type_hints(function: Any) -> dict[str, Any]:
    """The type hints of a function; empty where they are not reliable, or name what is imported for type checkers."""
    try:
        return {} if function.__module__.split(".")[0] in LIBRARIES else get_type_hints(function)
    except NameError:
        return {}


def from_source(path: str) -> Signature | None:
    """The signature of a dotted path, read from this project's source; None where that does not tell it.

    Such a path is of another package, is misspelt, or has no settings of its own: importing it tells more.
    """
    definition, signature = find(path), None
    try:
        match definition:
            case module, ast.FunctionDef(decorator_list=[] | [ast.Name(id="part")]) as node:
                signature = function_signature(module, node)
            case module, ast.ClassDef() as node:
                signature = class_signature(module, node)
    except UnclearError:
        return None
    if definition is None or signature is None:
        return None
    explained = written(definition, known=set(signature.names))
    handed_over = tuple(name for name in signature.names if name not in explained)
    return replace(signature, names=[name for name in signature.names if name in explained], handed_over=handed_over)


def function_signature(module: ast.Module, node: ast.FunctionDef) -> Signature:
    """The signature of a function, or of a method without its `self`."""
    arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    arguments = [argument for argument in arguments if argument.arg != "self"]
    typed = {argument.arg: argument.annotation for argument in arguments if argument.annotation is not None}
    return Signature([argument.arg for argument in arguments], {name: hint_of(module, typed[name]) for name in typed})


def class_signature(module: ast.Module, node: ast.ClassDef) -> Signature | None:
    """What the `__init__` of a class takes: its own, a data class's fields, or that of its first base that has one."""
    if is_dataclass(node):
        hints = dict(dataclass_fields(module, node))
        return Signature(list(hints), hints)
    for child in node.body:
        if isinstance(child, ast.FunctionDef) and child.name == "__init__":
            return function_signature(module, child)
    found = (class_signature(*base) for base in bases(module, node))
    return next((signature for signature in found if signature is not None), None)


def dataclass_fields(module: ast.Module, node: ast.ClassDef) -> Iterator[tuple[str, Any]]:
    """Names and hints of the fields that `__init__` takes, those of the bases first."""
    for base in reversed(bases(module, node)):
        yield from dataclass_fields(*base)
    if is_dataclass(node):
        for child in node.body:
            if isinstance(child, ast.AnnAssign) and isinstance(child.target, ast.Name) and is_setting(child.value):
                yield child.target.id, hint_of(module, child.annotation)


def bases(module: ast.Module, node: ast.ClassDef) -> list[tuple[ast.Module, ast.ClassDef]]:
    """The bases of a class; `UnclearError` where one is of another project and may have settings."""
    found = []
    for base in node.bases:
        match find_in(module, base.id) if isinstance(base, ast.Name) else None:
            case home, ast.ClassDef() as definition:
                found.append((home, definition))
            case _ if ast.unparse(base) not in PLAIN_BASES:
                raise UnclearError
    return found


def is_dataclass(node: ast.ClassDef) -> bool:
    """Whether a class is decorated with `dataclass` or `dataclass(...)`; `UnclearError` under others but `part`."""
    called = [decorator.func if isinstance(decorator, ast.Call) else decorator for decorator in node.decorator_list]
    names = {ast.unparse(decorator).rpartition(".")[2] for decorator in called}
    if names - {"dataclass", "part"}:
        raise UnclearError
    return "dataclass" in names


def is_setting(default: ast.expr | None) -> bool:
    """Whether a field of a data class with this default is in its `__init__`: not where it is field(init=False)."""
    given = default.keywords if isinstance(default, ast.Call) else []
    return not any(word.arg == "init" and ast.unparse(word.value) == "False" for word in given)


def hint_of(module: ast.Module, annotation: ast.expr) -> Any:
    """The type hint that an annotation in a module writes; Any for a type that is not known here."""
    match annotation:
        case ast.Constant(value=None):
            return NoneType
        case ast.Name(id=name) if name in TYPES:
            return TYPES[name]
        case ast.Name(id=name):
            alias = find_in(module, name)
            return hint_of(alias[0], alias[1].value) if alias and isinstance(alias[1], ast.Assign) else Any
        case ast.BinOp(op=ast.BitOr(), left=left, right=right):
            return Union[hint_of(module, left), hint_of(module, right)]  # noqa: UP007
        case ast.Subscript(value=ast.Name(id="Literal"), slice=inner):
            return Literal[tuple(ast.literal_eval(part) for part in parts(inner))]
        case ast.Subscript(value=ast.Name(id=name), slice=inner) if name in TYPES:
            return TYPES[name][tuple(hint_of(module, part) for part in parts(inner))]
    return Any


def parts(inner: ast.expr) -> list[ast.expr]:
    """What stands between the brackets of `dict[str, int]`."""
    return inner.elts if isinstance(inner, ast.Tuple) else [inner]
