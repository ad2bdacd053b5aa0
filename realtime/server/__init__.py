"""Daphne, extended: sockets that can be written to directly, honest closes and refusals. No copy of Daphne's code."""
