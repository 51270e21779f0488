"""`python -m thoughtlens`."""

from thoughtlens.cli import main

main()
