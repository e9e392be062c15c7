"""The HTTP surface: bodies to engine requests, engine events to answers."""
