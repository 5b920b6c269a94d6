"""Break things on purpose and count the results, as in docs/reliability.md.

    python scripts/reliability [--seed 1] [--share 0.1] [--only NAME ...] [--list]

Each trial has a promise and a number of cases that could break it. The command prints its seed; the
same seed gives the same cases. If a promise is broken, it prints the case and exits with 1.
"""

from __future__ import annotations

import argparse
import pathlib
import secrets
import signal
import sys
import tempfile
import time
import traceback

from suite import TRIALS


def main() -> int:
    """Run the trials; return 1 if a promise is broken."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, help="Seed of the cases (default: random).")
    parser.add_argument("--share", type=float, default=1.0, help="Share of the cases to run.")
    parser.add_argument("--only", nargs="+", choices=[t.name for t in TRIALS], metavar="NAME")
    parser.add_argument("--list", action="store_true", help="List the trials.")
    options = parser.parse_args()
    if options.list:
        for trial in TRIALS:
            print(f"{trial.name:<10} {trial.count:>5}  {trial.promise}")
        return 0
    # a shell starts background jobs with SIGINT ignored, which the trainings would inherit
    signal.signal(signal.SIGINT, signal.default_int_handler)
    seed = secrets.randbelow(2**31) if options.seed is None else options.seed
    print(f"seed {seed}\n\n| trial | cases | results | seconds |\n|---|---|---|---|")
    broken = 0
    for trial in TRIALS:
        if options.only and trial.name not in options.only:
            continue
        start = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            try:
                found = trial.run(seed, options.share, pathlib.Path(folder))
            except AssertionError as error:
                print(f"broken: {trial.name}, seed {seed}: {error}", file=sys.stderr)
                traceback.print_exception(error.__cause__)
                broken += 1
                continue
        what = ", ".join(f"{count:,} {outcome}" for outcome, count in found.most_common())
        seconds = time.perf_counter() - start
        print(f"| {trial.name} | {found.total():,} | {what} | {seconds:.0f} |", flush=True)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
