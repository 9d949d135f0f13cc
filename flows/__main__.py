"""`python -m flows` is the `sif` command."""

from flows.commands.main import main

main()
