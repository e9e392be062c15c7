"""Set-up and build steps behind the Makefile; standard library only, they run before .venv exists."""
