"""Boxes made elsewhere: read from whatever file they come in, aligned by id or row, scored like a run of our own."""
