"""The command line: argument parsing only, one call into a pipeline each."""
