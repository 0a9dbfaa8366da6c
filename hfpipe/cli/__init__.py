"""The command line: parser, commands, and output in a terminal."""
