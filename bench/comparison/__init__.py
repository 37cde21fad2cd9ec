"""Compare runs: paired, clustered by image, without torch and without the data."""
