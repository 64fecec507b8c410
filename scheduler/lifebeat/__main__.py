"""``python -m lifebeat``."""

import sys

from lifebeat.cli.main import main

sys.exit(main())
