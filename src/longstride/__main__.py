"""``python -m longstride``: the command line, for launchers that start modules."""

from longstride.cli import app

if __name__ == "__main__":
    app()
