"""What a command line shows: errors as two lines, tables on stdout, progress on stderr."""
