"""Imports go one way, kernels know no Dask, and user input is never checked with `assert`."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import haag_vq

PACKAGE = Path(haag_vq.__file__).parent

# A part may import parts of a lower rank. What is not listed has no place yet: give it one.
RANKS = {
    "errors": 0,
    "parsing": 0,
    "atomic": 1,
    "tempdirs": 1,
    "inflight": 1,
    "interrupts": 1,
    "sources": 1,
    "partition": 2,
    "memory": 2,
    "progress": 3,
    "deaths": 3,
    "lags": 3,
    "workers": 4,
    "arrays": 5,
    "groundtruth": 6,
    "hub": 7,
    "data": 8,
    "export": 9,
    "plots": 9,
    "speed": 9,
    "quantizing": 10,
    "planning": 11,
    "demo": 12,
    "__init__": 12,  # the front door, of which the command line takes the version
    "doctor": 13,
    "report": 13,
    "job_check": 14,
    "commands": 15,
    "cli": 16,
    "__main__": 17,
}

# Beside the others: what it may import, and who may import it.
BESIDE = {
    "cluster": (
        {"errors", "atomic", "tempdirs", "inflight", "memory", "progress", "deaths", "workers"},
        {"planning", "demo", "job_check", "commands", "__init__"},
    )
}

KERNELS = [
    "sources",
    *(
        f"groundtruth.{name}"
        for name in (
            "kernel",
            "scan",
            "halves",
            "listed",
            "partial",
            "products",
            "compiled",
            "exact",
            "order",
            "merge",
            "part",
            "d64",
            "bounds",
            "norms",
            "opening",
            "tiles",
            "workspace",
            "blas",
            "finish",
            "precompile",
            "tasks",
            "cover",
            "intervals",
            "attempts",
            "lock",
            "manifest",
            "checkpoint",
        )
    ),
]


class Package:
    """The modules under a directory, and what each imports."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self.trees = {
            self._name(path): ast.parse(path.read_text(), str(path))
            for path in sorted(root.rglob("*.py"))
        }

    def _name(self, path: Path) -> str:
        """``groundtruth.kernel``; ``groundtruth.__init__``."""
        return ".".join(path.relative_to(self._root).with_suffix("").parts)

    def imports(self, module: str) -> Iterator[str]:
        """Yield what `module` imports, wherever in it: full dotted names."""
        for node in ast.walk(self.trees[module]):
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                base = self._absolute(module, node)
                # What is imported may itself be a module: then it is the one meant.
                yield from (f"{base}.{alias.name}" for alias in node.names)

    def _absolute(self, module: str, node: ast.ImportFrom) -> str:
        if not node.level:
            return node.module or ""
        package = ["haag_vq", *module.split(".")][: -node.level]
        return ".".join([*package, *([node.module] if node.module else [])])

    def own(self, module: str) -> set[str]:
        """Modules of this package that `module` imports."""
        return {
            found
            for name in self.imports(module)
            if name.split(".")[0] == "haag_vq" and (found := self._module(name)) is not None
        }

    def _module(self, name: str) -> str | None:
        """The module that a dotted name is, or is in: the longest that there is."""
        parts = name.split(".")[1:]
        for n in range(len(parts), 0, -1):
            for candidate in (".".join(parts[:n]), ".".join([*parts[:n], "__init__"])):
                if candidate in self.trees:
                    return candidate
        return "__init__" if "__init__" in self.trees else None

    def foreign(self, module: str) -> set[str]:
        """Top-level names of other packages that `module` imports."""
        return {name.split(".")[0] for name in self.imports(module)} - {"haag_vq"}


def part_of(module: str) -> str:
    return module.split(".")[0]


def wrong_imports(package: Package) -> list[str]:
    """Say of each import against the order who imports whom."""
    wrong = []
    for module in package.trees:
        part = part_of(module)
        if part not in RANKS and part not in BESIDE:
            wrong.append(f"{module} has no place in the order")
            continue
        for other in sorted(package.own(module)):
            target = part_of(other)
            if target != part and not may_import(part, target):
                wrong.append(f"{module} imports {other}")
    return wrong


def may_import(part: str, target: str) -> bool:
    if part in BESIDE:
        return target in BESIDE[part][0]
    if target in BESIDE:
        return part in BESIDE[target][1]
    return RANKS.get(target, 99) < RANKS[part]


def impure_kernels(package: Package) -> list[str]:
    """Kernels that import Dask, themselves or by a module of ours that they import."""
    wrong = []
    for module in package.trees:
        if not any(module == kernel or module.startswith(f"{kernel}.") for kernel in KERNELS):
            continue
        reached, to_visit = set(), [module]
        while to_visit:
            at = to_visit.pop()
            reached.add(at)
            to_visit += package.own(at) - reached
        wrong += [
            f"{module} reaches {name} by {at}"
            for at in sorted(reached)
            for name in sorted(package.foreign(at) & {"dask", "distributed"})
        ]
    return wrong


def faiss_importers(package: Package) -> list[str]:
    return [module for module in package.trees if "faiss" in package.foreign(module)]


def asserts(package: Package) -> list[str]:
    return [
        f"{module}:{node.lineno}"
        for module, tree in package.trees.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Assert)
    ]


def unpickling_loads(package: Package) -> list[str]:
    """Calls with ``allow_pickle`` that is not plainly False."""
    return [
        f"{module}:{node.value.lineno}"
        for module, tree in package.trees.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.keyword)
        and node.arg == "allow_pickle"
        and not (isinstance(node.value, ast.Constant) and node.value.value is False)
    ]


@pytest.fixture(scope="module")
def package() -> Package:
    return Package(PACKAGE)


def test_imports_go_one_way(package: Package) -> None:
    assert wrong_imports(package) == []


def test_kernels_never_import_dask(package: Package) -> None:
    assert impure_kernels(package) == []


def test_at_most_one_module_imports_faiss(package: Package) -> None:
    # It chooses the BLAS kernel and sets the threads before anything is computed.
    assert len(faiss_importers(package)) <= 1


def test_nothing_is_checked_with_assert(package: Package) -> None:
    # `python -O` leaves them out.
    assert asserts(package) == []


def test_nothing_is_unpickled_from_a_data_file(package: Package) -> None:
    assert unpickling_loads(package) == []


# --- the rules themselves, on packages that break them -----------------------------------------


def made(root: Path, **modules: str) -> Package:
    """A package of modules with the given text; ``a__b`` is module b of sub-package a."""
    for name, text in {"__init__": "", **modules}.items():
        path = root / (name if name.startswith("__") else name.replace("__", "/"))
        path.parent.mkdir(exist_ok=True)
        path.with_name(f"{path.name}.py").write_text(text)
    for directory in (d for d in root.iterdir() if d.is_dir()):
        (directory / "__init__.py").touch()
    return Package(root)


@pytest.mark.parametrize(
    ("modules", "wrong"),
    [
        ({"errors": "from haag_vq.memory import x"}, ["errors imports memory"]),
        ({"errors": "import haag_vq.memory"}, ["errors imports memory"]),
        ({"errors": "from haag_vq import memory"}, ["errors imports memory"]),
        ({"errors": "from . import memory"}, ["errors imports memory"]),
        ({"errors": "def f():\n    from .memory import x"}, ["errors imports memory"]),
        ({"errors": "from haag_vq import open_dataset"}, ["errors imports __init__"]),
        ({"sources__a": "from ..arrays import x"}, ["sources.a imports arrays"]),
        ({"sources__a": "from haag_vq.sources import b"}, []),
        ({"arrays": "from haag_vq import memory"}, []),
        ({"arrays": "import haag_vq.cluster.connect"}, ["arrays imports cluster.connect"]),
        ({"commands__info": "from haag_vq.cluster import connect"}, []),
        ({"cli": "from haag_vq.cluster import connect"}, ["cli imports cluster.connect"]),
        ({"cli": "from haag_vq.commands import info"}, []),
        ({"arrays": "from haag_vq.commands import info"}, ["arrays imports commands.info"]),
        ({"cluster__connect": "from haag_vq.arrays import x"}, ["cluster.connect imports arrays"]),
        ({"partition": "import haag_vq.memory"}, ["partition imports memory"]),
        ({"novelty": ""}, ["novelty has no place in the order"]),
    ],
)
def test_the_order_is_enforced(modules: dict[str, str], wrong: list[str], tmp_path: Path) -> None:
    others = dict.fromkeys(("memory", "arrays", "sources__b"), "")
    others |= {"cluster__connect": "", "commands__info": ""}
    assert wrong_imports(made(tmp_path, **{**others, **modules})) == wrong


def test_dask_is_found_in_a_kernel_and_behind_it(tmp_path: Path) -> None:
    found = made(
        tmp_path,
        sources__npy="from dask import delayed",
        groundtruth__kernel="from haag_vq import memory",
        groundtruth__graph="import dask.array",
        memory="def f():\n    import distributed",
    )
    assert impure_kernels(found) == [
        "groundtruth.kernel reaches distributed by memory",
        "sources.npy reaches dask by sources.npy",
    ]


def test_the_other_rules_find_what_they_forbid(tmp_path: Path) -> None:
    found = made(
        tmp_path,
        errors="import faiss\nassert True",
        memory="from faiss import knn\nload(x, allow_pickle=True)\nload(x, allow_pickle=False)",
    )
    assert faiss_importers(found) == ["errors", "memory"]
    assert asserts(found) == ["errors:2"]
    assert unpickling_loads(found) == ["memory:2"]
