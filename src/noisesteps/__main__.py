"""Let `python -m noisesteps` do what the command `noisesteps` does."""

from noisesteps.cli import main

main(prog_name="noisesteps")
