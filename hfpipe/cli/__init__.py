"""The command line: parser, commands, and what a terminal shows."""
