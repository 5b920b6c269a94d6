"""Test claims about batch normalization and training on real data.

`python examples/experiments NAME` trains networks that differ in one setting, with three seeds
each. It prints a table and says which claims hold: those where all seeds of one side beat all seeds
of the other. An experiment takes some minutes on Fashion-MNIST; --quick uses the digits that come
with the package. docs/experiments.md has the results.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import sys
import time

import output
import shift
import tables
from runner import make_setting, run_table

from fastbn import DataFileError

TABLES = {
    "convergence": tables.convergence,
    "gradient": tables.gradient,
    "normalization": tables.normalization,
    "batch-size": tables.batch_size,
    "optimizers": tables.optimizers,
}
OTHERS = {"shift": shift.run, "output": output.run}


def say(line):
    print(line, file=sys.stderr)


def run(name, setting, say=say):
    """Return the result of an experiment."""
    if name in TABLES:
        return run_table(TABLES[name](setting), setting, say)
    return OTHERS[name](setting, say)


def main(arguments=None):
    parser = argparse.ArgumentParser(
        prog="python examples/experiments", description=__doc__.partition("\n\n")[2],
        allow_abbrev=False,
    )  # fmt: skip
    parser.add_argument("name", choices=[*TABLES, *OTHERS], metavar="NAME",
                        help=", ".join([*TABLES, *OTHERS]))  # fmt: skip
    parser.add_argument("--quick", action="store_true", help="use the digits; takes some seconds")
    parser.add_argument("--seed", type=int, default=0, help="the first of three seeds")
    parser.add_argument("--plot", metavar="FILE", help="draw the curves (.png, .svg, .pdf)")
    parser.add_argument("--json", metavar="FILE", help="write all figures")
    options = parser.parse_args(arguments)
    start = time.perf_counter()
    try:
        setting = make_setting(options.quick, options.seed)
    except DataFileError as error:
        sys.exit(str(error))
    result = run(options.name, setting)
    print(result.text())
    if options.json:
        pathlib.Path(options.json).write_text(json.dumps(result.to_dict(), indent=1))
    if options.plot:
        result.plot(options.plot)
    say(f"\n{time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
