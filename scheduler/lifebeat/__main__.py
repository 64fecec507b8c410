"""``python -m lifebeat``, and the command ``lifebeat``."""

import sys


def main() -> int:
    """Run a command; Ctrl-C while it is imported ends it as it does later."""
    try:
        from lifebeat.cli.main import main as command

        return command()
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
