"""Make a dashboard of asv's results: a folder of static HTML that opens without a network.

    python scripts/dashboard.py [--results FOLDER]... [--out FOLDER]

It shows the results that come with the project (asv_benchmarks/history), those of `asv run` in this
clone (.asv/results), and those of any folder that is given: each has a folder for each machine, as
asv makes them. Where two have results of the same machine and commit, the later one counts.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parents[1]
HISTORY = ROOT / "asv_benchmarks" / "history"
LIBRARIES = ROOT / "scripts" / "dashboard_libraries"

# A script or a style sheet of the page that comes from the network: its address ends in its name.
REMOTE = re.compile(
    r'<(script src|link rel="stylesheet" href)="https://[^"]*/([\w.-]+)"[^>]*>(</script>)?'
)


def read(path: pathlib.Path) -> dict[str, Any]:
    """Return what a JSON file of asv holds."""
    try:
        return dict(json.loads(path.read_text()))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: expected a JSON file of asv ({error})") from None


def merge(sources: list[pathlib.Path], target: pathlib.Path) -> int:
    """Copy the results of all sources to one folder; return of how many machines they are.

    The page asks for a graph of every benchmark that is described: those without results are not.
    """
    benchmarks: dict[str, object] = {}
    measured = {"version"}
    for source in sources:
        shutil.copytree(source, target, dirs_exist_ok=True)
        described = source / "benchmarks.json"
        if described.exists():
            benchmarks |= read(described)
        for path in source.glob("*/*.json"):
            measured |= read(path).get("results", {}).keys()
    kept = {name: value for name, value in benchmarks.items() if name in measured}
    (target / "benchmarks.json").write_text(json.dumps(kept))
    return len(list(target.glob("*/machine.json")))


def bring_libraries(page: pathlib.Path) -> None:
    """Have the page load its libraries from beside it."""
    here = {path.name.replace(".min", ""): path for path in LIBRARIES.rglob("*.*")}

    def local(match: re.Match[str]) -> str:
        attribute, name, end = match.groups()
        path = here[name.replace(".min", "")].relative_to(LIBRARIES).as_posix()
        return f'<{attribute}="libraries/{path}">{end or ""}'

    page.write_text(REMOTE.sub(local, page.read_text()))
    shutil.copytree(LIBRARIES, page.parent / "libraries", dirs_exist_ok=True)


def make(results: list[pathlib.Path], out: pathlib.Path) -> None:
    """Publish the results to a folder; what was there stays until the new page is complete."""
    with tempfile.TemporaryDirectory() as folder:
        work = pathlib.Path(folder)
        machines = merge(results, work / "results")
        if machines == 0:
            raise ValueError(f"no results of any machine in {', '.join(map(str, results))}")
        config = json.loads((ROOT / "asv.conf.json").read_text())
        config |= {
            "repo": str(ROOT),
            "benchmark_dir": str(ROOT / config["benchmark_dir"]),
            "env_dir": str(work / "env"),
            "results_dir": str(work / "results"),
            "html_dir": str(work / "html"),
        }
        (work / "asv.conf.json").write_text(json.dumps(config))
        command = [sys.executable, "-m", "asv", "publish", "--config", str(work / "asv.conf.json")]
        if subprocess.run(command, check=False, cwd=work).returncode != 0:
            raise ValueError(f"asv could not publish these results; {out} is as it was")
        bring_libraries(work / "html" / "index.html")
        if out.exists():
            shutil.rmtree(out)
        shutil.copytree(work / "html", out)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--results", action="append", default=[], type=pathlib.Path)
    parser.add_argument("--out", default=ROOT / ".asv" / "html", type=pathlib.Path)
    options = parser.parse_args(arguments)
    for folder in options.results:
        if not list(folder.glob("*/machine.json")):
            parser.error(f"--results: expected a folder with a machine's results, got {folder}")
    out = options.out
    if out.exists() and not (out / "index.html").exists() and any(out.iterdir()):
        parser.error(f"--out: {out} holds something else than a dashboard")
    own = ROOT / ".asv" / "results"
    try:
        make([HISTORY, *([own] if own.exists() else []), *options.results], out)
    except ValueError as error:
        sys.exit(f"dashboard: {error}")
    print(f"dashboard in {out}; look at it with: python -m http.server --directory {out}")


if __name__ == "__main__":
    main()
