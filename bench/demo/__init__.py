"""`bench demo`: a page on this machine's own address where pipelines are asked side by side (the extra `demo`)."""
