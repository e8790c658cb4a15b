"""`python -m lossgeo` is the command `lossgeo`."""

from lossgeo.cli import main

main()
