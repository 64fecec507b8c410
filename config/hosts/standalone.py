"""A process of its own that runs the job file: ``python main.py run``; ``--help`` lists its other commands."""

import sys

import lifebeat

sys.exit(lifebeat.main(prog="main.py", app_name="notes", app_version="1.4.2", api_key="phc_your_project_key"))
