"""`llamaserver selftest`: whether the CPU modules of this build compute right on this machine."""
