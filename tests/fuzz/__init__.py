"""Requests as products of maxima, and what they cost the server (`make fuzz`)."""
