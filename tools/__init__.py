"""The set-up and build steps behind the Makefile.

They use the standard library only, because they run before .venv exists. The exceptions serve the documentation:
`site` and `http_api`.
"""
