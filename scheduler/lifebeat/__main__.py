"""``python -m lifebeat``."""

import sys

if __name__ == "__main__":
    try:
        from lifebeat.cli.main import main

        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
