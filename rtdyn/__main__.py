"""`python -m rtdyn` is the command `rtdyn`."""

from rtdyn.cli import main

if __name__ == "__main__":  # not where a process starts anew from this module
    main(prog_name="rtdyn")
