"""Doubtful labels: from stored runs and from the annotations alone, reviewed by a person, kept as a file of flags."""
