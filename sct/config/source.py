"""The source of this project, read without importing it: what a dotted path is, and what its docstring explains."""

import ast
import re
from functools import cache
from pathlib import Path

# a class, a function or a type's other name, and the module that defines it, in which its names have their meaning
Definition = tuple[ast.Module, ast.ClassDef | ast.FunctionDef | ast.Assign]

PACKAGE = Path(__file__).parents[1]


def find(path: str) -> Definition | None:
    """What a dotted path means in this project."""
    module_name, _, name = path.rpartition(".")
    module = parse(module_name)
    return find_in(module, name) if module is not None else None


def find_in(module: ast.Module, name: str) -> Definition | None:
    """What a name means in a module; imports are followed."""
    for node in module.body:
        match node:
            case ast.ClassDef(name=found) | ast.FunctionDef(name=found) | ast.Assign(targets=[ast.Name(id=found)]):
                if found == name:
                    return module, node
            case ast.ImportFrom(module=source, names=aliases):
                for alias in aliases:
                    if name == (alias.asname or alias.name):
                        return find(f"{source}.{alias.name}")
    return None


@cache
def parse(module_name: str) -> ast.Module | None:
    """The syntax tree of a module of this project."""
    package, *parts = module_name.split(".")
    if package != PACKAGE.name:
        return None
    place = PACKAGE.joinpath(*parts)
    file = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
    return ast.parse(file.read_text(encoding="utf-8")) if file.is_file() else None


def written(definition: Definition, *, known: set[str]) -> dict[str, tuple[str, str]]:
    """Meanings in the docstring of a class or function, and its name; a base tells what its class does not."""
    module, node = definition
    if isinstance(node, ast.Assign):
        return {}
    own = entries(ast.get_docstring(node) or "", known=known)
    found = {name: (meaning, node.name) for name, meaning in own.items()}
    for base in node.bases if isinstance(node, ast.ClassDef) else []:
        match find_in(module, base.id) if isinstance(base, ast.Name) else None:
            case home, ast.ClassDef() as parent:
                found = written((home, parent), known=known) | found
    return found


def entries(docstring: str, *, known: set[str]) -> dict[str, str]:
    """The lines `key: meaning` of a docstring."""
    found: dict[str, str] = {}
    name = ""
    for line in docstring.splitlines():
        match = re.match(r"(\w+): (.+)", line)
        if match and match[1] in known:
            name = match[1]
            found[name] = match[2].strip()
        elif not line.strip():
            name = ""
        elif name:
            found[name] += f" {line.strip()}"
    return found
