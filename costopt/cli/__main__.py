"""`python -m costopt.cli`: the same as `costopt`."""

from costopt.cli import main

main()
