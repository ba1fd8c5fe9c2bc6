"""``python -m swapnet``: the command line."""

from swapnet.cli import main

__all__ = ["main"]

if __name__ == "__main__":
    main()
