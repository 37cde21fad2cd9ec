"""Doubtful labels: found by stored runs and by the annotations alone, judged by a person, kept as a file of flags."""
