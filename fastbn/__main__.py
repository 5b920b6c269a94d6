"""`python -m fastbn` is the command `fastbn`."""

from fastbn.cli import main

main()
