"""`python -m thoughtlens.cli`."""

from thoughtlens.cli import main

main()
