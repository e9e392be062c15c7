"""The options, one file per group. `table` puts them together."""
