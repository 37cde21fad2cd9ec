"""Runs against one another: paired, clustered by image, without torch and without the data."""
