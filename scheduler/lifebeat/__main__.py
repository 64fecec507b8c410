"""``python -m lifebeat``."""

import sys

from lifebeat.cli import main

sys.exit(main())
