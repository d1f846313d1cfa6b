"""Which part of the code may import which, and every import that breaks the order.

    python -m tools.architecture       # list what breaks the rules; exit status 1 if anything does

The rules, held against the import statements themselves, also those inside functions and under TYPE_CHECKING:

- the packages stand in the order of `PACKAGES`, the parts of a package in that of `ORDER`, and imports only point down;
- a new folder in `mol` or module in `molkernels` has a place in `ORDER`, a new module at the face one in `FACES`;
- `mol` uses of `molkernels` only what `DOORS` lists;
- no module imports itself by way of others.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

# All from the ground up.
PACKAGES = ("molkernels", "mol", "bench")
ORDER = {
    "molkernels": (
        "version",
        "installation",
        "checks",
        "precision",
        "reference",
        "triton",
        "extension",
        "cache",
        "known_answers",
        "trials",
        "dispatch",
        "ops",
        "functional",
        "devices",
        "batch_norm",
        "modules",
    ),
    "mol": (
        "common",
        "vision",
        "network",
        "data",
        "networks",
        "pictures",
        "synth",
        "scoring",
        "export",
        "viewer",
        "prediction",
        "live",
        "spotting",
        "training",
        "loso",
        "report",
    ),
}
# What a package shows the world stands on top of its parts.
FACES = {
    "molkernels": ("__init__", "__main__"),
    "mol": ("__init__", "__main__", "arguments", "cli", "commands", "demo", "info"),
}
# `mol` calls the operators by their public names; nothing in it depends on how they are dispatched or compiled.
DOORS = (
    "molkernels",
    "molkernels.functional",
    "molkernels.modules",
    "molkernels.batch_norm",
    "molkernels.installation",
)

# Folders whose modules the packages never import.
_OUTSIDE = ("tests", "tools", "torture", "docs", "examples")


@dataclass(frozen=True)
class Import:
    """One module imports another.

    Attributes:
        file: relative to the root of the repository.
        line: of the import.
        importer: the module that `file` is.
        imported: a module of the repository.
    """

    file: Path
    line: int
    importer: str
    imported: str

    def __str__(self) -> str:
        return f"{self.file.as_posix()}:{self.line}: imports {self.imported}"


def find_modules(root: Path) -> dict[str, Path]:
    """The file of every module in `PACKAGES` by its dotted name; paths relative to `root`."""
    files = [path.relative_to(root) for package in PACKAGES for path in sorted((root / package).rglob("*.py"))]
    return {_module_name(file): file for file in files}


def read_imports(root: Path) -> list[Import]:
    """Every import of a module of this repository in `PACKAGES`, in the order of the files and lines."""
    modules = find_modules(root)
    return [
        Import(file, line, importer, imported)
        for importer, file in modules.items()
        for line, imported in sorted(set(_imports_of(root / file, importer, modules)))
    ]


def part_of(module: str) -> str:
    """The part of its package that a module belongs to, as `ORDER` and `FACES` name it."""
    _, *rest = module.split(".")
    return rest[0] if rest else "__init__"


def unlisted(modules: dict[str, Path]) -> list[str]:
    """Modules that have no place in the order."""
    return [
        f"{file.as_posix()}:1: the module {module} has no place: ORDER and FACES in tools/architecture.py do not list "
        f"{part_of(module)!r} of {package}"
        for module, file in modules.items()
        if (package := module.partition(".")[0]) in ORDER and part_of(module) not in ORDER[package] + FACES[package]
    ]


def upward(imports: Iterable[Import]) -> list[str]:
    """Imports of what stands higher, in the same package or in another."""
    return [
        f"{one}, but {_spoken(one.importer)} stands below {_spoken(one.imported)}"
        for one in imports
        if _height(one.imported) > _height(one.importer)
    ]


def past_the_doors(imports: Iterable[Import]) -> list[str]:
    """Imports in `mol` of the inner modules of `molkernels`."""
    return [
        f"{one}, but mol may only use {', '.join(DOORS)}"
        for one in imports
        if one.importer.partition(".")[0] == "mol"
        and one.imported.partition(".")[0] == "molkernels"
        and one.imported not in DOORS
    ]


def circles(imports: Iterable[Import]) -> list[str]:
    """A shortest circle through each module that is part of one but not of any listed before."""
    steps: dict[str, dict[str, Import]] = {}
    for one in imports:
        steps.setdefault(one.importer, {}).setdefault(one.imported, one)
    found: list[str] = []
    named: set[str] = set()
    for module in sorted(steps):
        path = [] if module in named else _way_back(module, steps)
        if path:
            named |= {one.importer for one in path}
            found.append("circle: " + "; ".join(map(str, path)))
    return found


RULES: tuple[Callable[[Iterable[Import]], list[str]], ...] = (upward, past_the_doors, circles)


def _height(module: str) -> tuple[int, int]:
    package, part = module.partition(".")[0], part_of(module)
    order = ORDER.get(package, (part,))
    return (PACKAGES + _OUTSIDE).index(package), order.index(part) if part in order else len(order)


def _spoken(module: str) -> str:
    package, part = module.partition(".")[0], part_of(module)
    if package not in ORDER:
        return package
    return f"the face of {package}" if part in FACES[package] else f"{package}.{part}"


def _module_name(file: Path) -> str:
    parts = file.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imports_of(path: Path, importer: str, modules: dict[str, Path]) -> Iterator[tuple[int, str]]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        for name in _names(node, importer, path.name == "__init__.py"):
            if name.partition(".")[0] in PACKAGES + _OUTSIDE:
                yield node.lineno, _closest(name, modules)  # type: ignore[attr-defined]


def _names(node: ast.AST, importer: str, is_package: bool) -> list[str]:
    """The dotted names that a statement, or a call of `import_module` with a plain string, imports."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        base = node.module or ""
        if node.level:
            parents = importer.split(".")
            base = ".".join(filter(None, [*parents[: len(parents) + is_package - node.level], base]))
        return [f"{base}.{alias.name}" for alias in node.names]
    if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
        called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if called == "import_module" and isinstance(node.args[0].value, str):
            return [node.args[0].value]
    return []


def _closest(name: str, modules: dict[str, Path]) -> str:
    """The module that has the name: `mol.data.cache` for `mol.data.cache.Cache`."""
    while name not in modules and "." in name:
        name = name.rpartition(".")[0]
    return name


def _way_back(module: str, steps: dict[str, dict[str, Import]]) -> list[Import]:
    """The shortest chain of imports from a module to itself; empty if there is none."""
    paths: list[list[Import]] = [[]]
    seen: set[str] = set()
    for path in paths:  # grows while it is read
        for imported, one in steps.get(path[-1].imported if path else module, {}).items():
            if imported == module:
                return [*path, one]
            if imported not in seen:
                seen.add(imported)
                paths.append([*path, one])
    return []


def main() -> int:
    """Print what breaks the rules."""
    modules, imports = find_modules(ROOT), read_imports(ROOT)
    problems = unlisted(modules) + [problem for rule in RULES for problem in rule(imports)]
    print("\n".join(problems) or f"{len(imports)} imports of {len(modules)} modules keep the order")
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main())
