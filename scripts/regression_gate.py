"""Compare the speed of two revisions, and fail where the second one is slower.

    python scripts/regression_gate.py BASE HEAD [--threshold 1.2] [--bench REGEX] [--markdown FILE]

BASE and HEAD are revisions of this repository, or folders that contain the package fastbn; `.` is
the work tree. The benchmarks are those of asv_benchmarks/ in the work tree, run by this Python.

Each revision has its own process. The two take samples in turns, so that a burst of load slows
both. Each round of a benchmark has new processes. If the median ratio of the rounds is above the
threshold, the benchmark gets twice as many further rounds in processes with another layout of
memory. It counts as slower if the median of all rounds is still above the threshold, and three
quarters of the rounds are above half of the threshold. The gate also fails if HEAD lacks a
benchmark, or if the controls, which only use NumPy, seem slower.

Exit codes: 0 no slowdown, 1 a slowdown, 2 no result.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib
import inspect
import io
import itertools
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterable, Iterator
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parents[1]
KEPT = ROOT / ".asv" / "gate"  # sources and compiled kernels of revisions
MODULES = ("kernels", "loops", "optimizers", "training")
CONTROLS = re.compile(r"Numpy|BareProducts")

SAMPLES = 9  # of each side in a round
SAMPLE_SECONDS = 0.01


# -- in the processes that measure -----------------------------------------------------------------


def benchmarks() -> Iterator[tuple[str, Any, str, tuple[Any, ...]]]:
    """Yield name, class, method and parameters of every benchmark of time."""
    import fastbn  # noqa: F401  the revision's, before ROOT is on the path

    sys.path.insert(0, str(ROOT))
    for module_name in MODULES:
        module = importlib.import_module(f"asv_benchmarks.{module_name}")
        for name, found in vars(module).items():
            if inspect.isclass(found) and found.__module__ == module.__name__:
                methods = [method for method in dir(found) if method.startswith("time_")]
                for method, params in itertools.product(methods, itertools.product(*found.params)):
                    shown = ", ".join(map(repr, params))
                    yield f"{module_name}.{name}.{method}({shown})", found, method, params


def serve() -> None:
    """List the benchmarks for an empty line on stdin; measure those named, in forked processes."""
    known = {name: rest for name, *rest in benchmarks()}
    for line in iter(sys.stdin.readline, ""):
        if line == "\n":
            say({"benchmarks": list(known)})
            continue
        child = os.fork()
        if child == 0:
            measure(*known[line.rstrip("\n")])
            os._exit(0)
        if os.waitpid(child, 0)[1] != 0:
            say({"error": "the process that measured it died"})


def measure(found: Any, method: str, params: tuple[Any, ...]) -> None:
    """Set up one benchmark, then take a sample for each line on stdin until an empty one."""
    benchmark = found()
    try:
        with contextlib.redirect_stdout(sys.stderr):
            benchmark.setup(*params)
    except NotImplementedError as error:
        say({"skipped": str(error)})
        return
    except Exception as error:
        say({"error": f"{type(error).__name__}: {error}"})
        return
    run, count = getattr(benchmark, method), 1
    while sample(run, params, count) < SAMPLE_SECONDS / 2:
        count *= 2
    say({"ready": count})
    while sys.stdin.readline().strip():
        say({"seconds": sample(run, params, count) / count})
    say({"done": True})  # otherwise this process could read the next line


def sample(run: Any, params: tuple[Any, ...], count: int) -> float:
    """Return the time of `count` calls."""
    start = time.perf_counter()
    for _ in range(count):
        run(*params)
    return time.perf_counter() - start


def say(answer: dict[str, Any]) -> None:
    """Send a line to the process that compares."""
    print(json.dumps(answer), flush=True)


# -- in the process that compares ------------------------------------------------------------------


class Side:
    """A revision and the process that measures it."""

    def __init__(self, name: str) -> None:
        self.name, self.folder = name, sources(name)
        self.start()

    def start(self) -> None:
        """Start the process without waiting. Its forked processes share its layout of memory."""
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(self.folder), str(ROOT)])}
        environment.pop("NUMBA_CACHE_DIR", None)  # keep machine code beside the sources
        self._process = subprocess.Popen(
            [sys.executable, str(pathlib.Path(__file__)), "--serve"], cwd=self.folder,
            env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    @property
    def benchmarks(self) -> list[str]:
        """Names of the benchmarks."""
        names: list[str] = self.ask("")["benchmarks"]
        return names

    def ask(self, line: str) -> dict[str, Any]:
        """Send a line and return the answer."""
        self.send(line)
        return self.read()

    def send(self, line: str) -> None:
        """Send a line; the process works on it while this one does something else."""
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def read(self) -> dict[str, Any]:
        """Return the next answer."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(fail(f"{self.name}: the process that measures it has ended"))
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        """End the process."""
        self._process.communicate()


def sources(name: str) -> pathlib.Path:
    """Return a folder with the package of a revision."""
    if (pathlib.Path(name) / "fastbn" / "__init__.py").exists():
        return pathlib.Path(name).resolve()
    parse = ["git", "-C", str(ROOT), "rev-parse", "--verify", "--quiet", f"{name}^{{commit}}"]
    found = subprocess.run(parse, capture_output=True, text=True)
    if found.returncode != 0:
        raise SystemExit(fail(f"expected a revision or a folder with fastbn, got {name!r}"))
    commit = found.stdout.strip()
    folder = KEPT / commit
    if not (folder / "fastbn" / "__init__.py").exists():
        archive = ["git", "-C", str(ROOT), "archive", "--format=tar", commit, "fastbn"]
        packed = subprocess.run(archive, capture_output=True)
        if packed.returncode != 0:
            raise SystemExit(fail(f"{name} has no package fastbn"))
        with tarfile.open(fileobj=io.BytesIO(packed.stdout)) as tar:
            tar.extractall(folder, filter="data")
    return folder


@dataclasses.dataclass
class Compared:
    """The rounds of one benchmark."""

    name: str
    base: list[float] = dataclasses.field(default_factory=list)  # median of each round, seconds
    head: list[float] = dataclasses.field(default_factory=list)
    skipped: dict[str, str] = dataclasses.field(default_factory=dict)  # reason, by side
    error: str = ""
    verdict: str = ""

    @property
    def ratios(self) -> list[float]:
        """The time of HEAD as a multiple of BASE's, for each round."""
        return [head / base for base, head in zip(self.base, self.head, strict=True)]

    @property
    def ratio(self) -> float:
        """The median ratio."""
        return statistics.median(self.ratios)

    @property
    def noise(self) -> float:
        """Half the range of the rounds' ratios."""
        return (max(self.ratios) - min(self.ratios)) / 2

    def is_slower(self, threshold: float) -> bool:
        """Tell whether the median is above the threshold, and most rounds agree."""
        half = 1.0 + (threshold - 1.0) / 2
        above = sum(ratio > half for ratio in self.ratios)
        return self.ratio > threshold and 4 * above >= 3 * len(self.ratios)


def take_round(compared: Compared, sides: dict[str, Side]) -> bool:
    """Measure a benchmark on both sides in turns; return False if one lacks it."""
    ready = {}
    for side in sides.values():
        side.send(compared.name)  # both sides set up at once, and are measured in turns
    for name, side in sides.items():
        answer = side.read()
        if "ready" in answer:
            ready[name] = side
        elif "skipped" in answer:
            compared.skipped[name] = answer["skipped"]
        else:
            compared.error = f"{side.name}: {answer['error']}"
    if len(ready) < len(sides):
        for side in ready.values():
            side.ask("")
        return False
    samples: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(SAMPLES):
        for name in list(sides)[:: -1 if turn % 2 else 1]:
            samples[name].append(sides[name].ask("sample")["seconds"])
    for side in sides.values():
        side.ask("")
    compared.base.append(statistics.median(samples["base"]))
    compared.head.append(statistics.median(samples["head"]))
    return True


def compare(
    sides: dict[str, Side], names: Iterable[str], rounds: int, threshold: float
) -> list[Compared]:
    """Measure all benchmarks, and measure again those that seem slower."""
    found = [Compared(name) for name in names]
    for compared in found:
        for _ in range(rounds):
            if not take_round(compared, sides):
                break
        if compared.base and compared.ratio > threshold:
            for extra in range(2 * rounds):
                if extra % rounds == 0:  # with another layout of memory
                    for side in sides.values():
                        side.close()
                        side.start()
                take_round(compared, sides)
            compared.verdict = "slower" if compared.is_slower(threshold) else ""
        elif compared.base and compared.ratio < 1.0 / threshold:
            compared.verdict = "faster"
        print(".", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return found


def markdown(found: list[Compared], base: str, head: str) -> list[str]:
    """Return a table, slowest ratio first."""
    lines = [
        f"| benchmark | {base} | {head} | ratio | noise | |",
        "|---|---:|---:|---:|---:|---|",
    ]
    measured = [compared for compared in found if compared.base]
    for compared in sorted(measured, key=lambda compared: -compared.ratio):
        base, head = (statistics.median(side) * 1e6 for side in (compared.base, compared.head))
        lines.append(
            f"| `{compared.name}` | {base:,.1f} us | {head:,.1f} us | {compared.ratio:.2f} "
            f"| ±{compared.noise:.2f} | {compared.verdict} |"
        )
    return lines


def fail(message: str) -> int:
    """Print why there is no result; return the exit code."""
    print(f"regression gate: {message}", file=sys.stderr)
    return 2


def judge(found: list[Compared]) -> int:
    """Print the result; return the exit code."""
    for compared in found:
        if compared.error:
            return fail(f"{compared.name}: {compared.error}")
    lost = [one.name for one in found if "head" in one.skipped and "base" not in one.skipped]
    if lost:
        return fail(f"no longer measured: {', '.join(lost)}")
    measured = [compared for compared in found if compared.base]
    if not [compared for compared in measured if not CONTROLS.search(compared.name)]:
        return fail("nothing was measured")
    slower = [compared.name for compared in measured if compared.verdict == "slower"]
    controls = [name for name in slower if CONTROLS.search(name)]
    if controls:
        return fail(f"the machine is not quiet: {', '.join(controls)} seem slower")
    faster = sum(compared.verdict == "faster" for compared in measured)
    print(f"\n{len(measured)} measured, {len(slower)} slower, {faster} faster")
    return 1 if slower else 0


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("base", metavar="BASE")
    parser.add_argument("head", metavar="HEAD")
    parser.add_argument("--threshold", type=float, default=1.2, metavar="RATIO")
    parser.add_argument("--rounds", type=int, default=3, metavar="N")
    parser.add_argument("--bench", default="", metavar="REGEX", help="Names of benchmarks to run.")
    parser.add_argument("--markdown", type=pathlib.Path, metavar="FILE")
    options = parser.parse_args(arguments)
    if not options.threshold > 1:
        parser.error(f"--threshold: expected a ratio above 1, got {options.threshold}")
    if options.rounds < 1:
        parser.error(f"--rounds: expected at least 1, got {options.rounds}")
    try:
        wanted = re.compile(options.bench)
    except re.error as error:
        parser.error(f"--bench: expected a regular expression, got {options.bench!r} ({error})")
    if options.markdown:
        try:
            options.markdown.open("a").close()
        except OSError as error:
            parser.error(f"--markdown: {error}")
    sides = {"base": Side(options.base), "head": Side(options.head)}
    try:
        names = [name for name in sides["head"].benchmarks if wanted.search(name)]
        found = compare(sides, names, options.rounds, options.threshold)
    finally:
        for side in sides.values():
            side.close()
    table = "\n".join(markdown(found, options.base, options.head))
    print(table)
    if options.markdown:
        options.markdown.write_text(table + "\n")
    return judge(found)


if __name__ == "__main__":
    if sys.argv[1:] == ["--serve"]:
        serve()
    else:
        sys.exit(main())
