"""Doubtful labels: found by stored runs and by the annotations alone, reviewed by a person, kept as a file of flags."""
