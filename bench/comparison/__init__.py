"""Runs against one another: paired, clustered by picture, without torch and without the data."""
