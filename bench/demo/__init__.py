"""`bench demo`: a page on this machine with the answers of pipelines side by side (the extra `demo`)."""
