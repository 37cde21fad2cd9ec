"""Every grounder but CLIP-VG: proposers, CLIP ranking, and the baselines a score must beat."""
