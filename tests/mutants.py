"""One-line faults in the privacy core, each of which a test must catch: ``make mutants``.

Faults are made from the syntax tree: another operator, comparison, number, or ``min`` for ``max``.
A copy of the package gets one fault at a time; then the tests of that file run on the copy. A fault
that no test catches is printed, and the exit status is 1. Some faults change no result: they are
listed in `EQUAL` with the reason.
"""

import argparse
import ast
import os
import queue
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import yaml

from tests import ROOT

CORE = {
    "client/privacy/mechanisms.py": ["client/privacy"],
    "client/privacy/noise.py": ["client/privacy"],
    "client/privacy/rounded_gaussian.py": ["client/privacy"],
    "server/federation/cohort.py": ["server/federation", "server/privacy"],
    "server/privacy/accountant.py": ["server/privacy"],
    "server/privacy/composition.py": ["server/privacy"],
    "client/privacy/gaussian.py": ["server/privacy"],
    "server/privacy/matrix_factorization.py": ["server/privacy"],
    "server/privacy/plan.py": ["server/privacy", "server/strategy"],
    "server/strategy/aggregate.py": ["server/strategy"],
    "server/strategy/limits.py": ["server/strategy"],
    "server/strategy/sum_noise.py": ["server/strategy"],
}
"""Files that get faults, and the folders of tests that must catch them."""
EQUAL = Path(__file__).with_name("equal_mutants.yaml")
"""Faults that change no result: by reason, as they are printed."""
OPERATORS: dict[type[ast.AST], type[ast.AST]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.Pow: ast.Mult,
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.And: ast.Or,
    ast.Or: ast.And,
}
NAMES = {"min": "max", "max": "min", "floor": "ceil", "ceil": "floor", "minimum": "maximum"}


@dataclass(frozen=True)
class Fault:
    """One fault: the file, the line, and the text of the file with the fault in it."""

    file: str
    line: int
    what: str
    source: str

    def __str__(self) -> str:
        return f"{self.file}: {self.what}"


def faults_of(file: str) -> Iterator[Fault]:
    """Yield every fault that can be made in a file."""
    source = (ROOT / file).read_text()
    sound = ast.unparse(ast.parse(source)).splitlines()
    for number, node in enumerate(list(ast.walk(ast.parse(source)))):
        if line := _break(node):
            tree = ast.parse(source)  # again: every fault stands alone
            _break(list(ast.walk(tree))[number])
            broken, shown = ast.unparse(tree), source.splitlines()[line - 1].strip()
            lines = zip(sound, broken.splitlines(), strict=True)
            changed = next((b for a, b in lines if a != b), "").strip()
            yield Fault(file, line, f"{shown}  ->  {changed}", broken)


def _break(node: ast.AST) -> int | None:
    """Put a fault into a node and return its line, or return None if the node takes none."""
    if isinstance(node, ast.BinOp | ast.BoolOp | ast.AugAssign) and type(node.op) in OPERATORS:
        node.op = OPERATORS[type(node.op)]()  # type: ignore[assignment]
        return node.lineno
    if isinstance(node, ast.Compare) and type(node.ops[0]) in OPERATORS:
        node.ops[0] = OPERATORS[type(node.ops[0])]()  # type: ignore[call-overload]
        return node.lineno
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        node.value = node.value + 1
        return node.lineno
    if isinstance(node, ast.Name) and node.id in NAMES:
        node.id = NAMES[node.id]
        return node.lineno
    if isinstance(node, ast.Attribute) and node.attr in NAMES:
        node.attr = NAMES[node.attr]
        return node.lineno
    return None


def is_caught(fault: Fault, copy: Path) -> bool:
    """Run the tests of a file on a copy of the package that has the fault."""
    place = copy / "fedser" / fault.file
    sound = place.read_text()
    place.write_text(fault.source)
    folder, name = os.path.split(fault.file)
    own = Path("tests", folder, f"test_{name}")  # first: most faults end here
    tests = [*([own] if (copy / own).exists() else []), *(f"tests/{f}" for f in CORE[fault.file])]
    try:
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests],
            cwd=copy,
            env={**os.environ, "PYTHONPATH": str(copy)},
            capture_output=True,
            timeout=600,
        )
    except subprocess.TimeoutExpired:
        return True
    finally:
        place.write_text(sound)
    if done.returncode > 1:
        raise RuntimeError(f"pytest could not run: {done.stdout.decode()}")
    return done.returncode == 1


def copied(copy: Path) -> Path:
    """Copy the package as it is installed, and its tests, to a folder; return the folder."""
    shutil.rmtree(copy, ignore_errors=True)
    skipped = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "fedser", copy / "fedser", ignore=skipped)
    for room in ("attacks", "client", "common", "conf", "server"):
        shutil.copytree(ROOT / room, copy / "fedser" / room, ignore=skipped)
    shutil.copytree(ROOT / "tests", copy / "tests", ignore=skipped)
    shutil.copy(ROOT / "pyproject.toml", copy)
    return copy


def main() -> None:
    """Try a sample of faults, the same for one seed and one state of the files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=76)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    faults = [fault for file in CORE for fault in faults_of(file)]
    equal = {fault for faults in yaml.safe_load(EQUAL.read_text()).values() for fault in faults}
    if gone := equal - set(map(str, faults)):
        parser.error(f"{EQUAL} lists faults that can no longer be made: {sorted(gone)}")
    chosen = random.Random(asked.seed).sample(faults, min(asked.count, len(faults)))
    copies: queue.SimpleQueue[Path] = queue.SimpleQueue()
    for core in range(os.cpu_count() or 1):
        copies.put(copied(ROOT / "build" / "mutants" / str(core)))

    def outcome(fault: Fault) -> str:
        if str(fault) in equal:
            return "equal"
        copy = copies.get()
        caught = is_caught(fault, copy)
        copies.put(copy)
        return "caught" if caught else "NOT CAUGHT"

    survivors = 0
    with ThreadPoolExecutor(copies.qsize()) as workers:
        outcomes = zip(chosen, workers.map(outcome, chosen), strict=True)
        for number, (fault, found) in enumerate(outcomes, 1):
            survivors += found == "NOT CAUGHT"
            print(f"{number:3d} {found:10s} {fault}", flush=True)
    print(f"{len(chosen)} faults of {len(faults)}, {survivors} not caught")
    sys.exit(survivors > 0)


if __name__ == "__main__":
    main()
