"""`python -m troupe` is `troupe`."""

from troupe.cli import main

main()
