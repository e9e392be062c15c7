"""The endurance test: `make soak`."""
