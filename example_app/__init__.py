"""A small library of files: what Granite does, to be watched in a browser."""
