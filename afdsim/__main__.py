"""``python -m afdsim`` is the command line."""

from afdsim.cli.main import main

if __name__ == "__main__":
    main(prog_name="afdsim")
