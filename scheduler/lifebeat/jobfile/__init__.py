"""The job file: fields, nodes, specs."""
