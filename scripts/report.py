"""Compare two commits that asv has measured: a Markdown table, worst first, with the noise.

    python scripts/report.py BASE HEAD [--machine NAME] [--results FOLDER]

FOLDER has asv's results, .asv/results if it is not given. Beside each figure is its noise; a mark
says what is beyond it: + slower, - faster, x failed. A ratio with ~ is within it.
"""

from __future__ import annotations

import argparse
import json
import math
import pathlib
import re
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[1]


def compare(base: str, head: str, machine: str | None, results: pathlib.Path) -> str:
    """Return what asv says."""
    config = json.loads((ROOT / "asv.conf.json").read_text())
    config |= {"repo": str(ROOT), "benchmark_dir": str(ROOT / config["benchmark_dir"])}
    config["results_dir"] = str(results.resolve())
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "asv.conf.json"
        path.write_text(json.dumps(config))
        command = [sys.executable, "-m", "asv", "compare", "--config", str(path)]
        command += ["--machine", machine] if machine else []
        done = subprocess.run([*command, base, head], cwd=ROOT, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"asv compare: {(done.stderr or done.stdout).strip().splitlines()[-1]}")
    return done.stdout


def worst_first(text: str) -> list[str]:
    """Return the lines of asv's table, by ratio; those without a ratio come last."""
    head, line, *rows = (line for line in text.splitlines() if line.startswith("|"))

    def ratio(row: str) -> float:
        number = re.search(r"[\d.]+", row.split("|")[4])
        return float(number[0]) if number else -math.inf

    return [head, line, *sorted(rows, key=ratio, reverse=True)]


def main(arguments: list[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("base", metavar="BASE")
    parser.add_argument("head", metavar="HEAD")
    parser.add_argument("--machine", metavar="NAME")
    default = ROOT / ".asv" / "results"
    parser.add_argument("--results", type=pathlib.Path, default=default, metavar="FOLDER")
    options = parser.parse_args(arguments)
    if not options.results.is_dir():
        parser.error(f"--results: expected a folder, got {options.results}")
    text = compare(options.base, options.head, options.machine, options.results)
    if "|" not in text:
        raise SystemExit(f"nothing was measured in both {options.base} and {options.head}")
    print("\n".join(worst_first(text)))


if __name__ == "__main__":
    main()
