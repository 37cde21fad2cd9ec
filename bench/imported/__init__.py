"""Imported predictions: read from JSON or JSONL of many forms, aligned by id or row, scored like a run of our own."""
