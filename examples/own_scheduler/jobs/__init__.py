"""The host's own jobs, in a package that is called what Lifebeat's folder is called as well."""
