"""The engine: token ids in, tokens and text out. Knows no JSON, no HTTP, no dialect."""
