"""OneRef (Xiao et al., NeurIPS 2024): one BEiT-3 encoder for image and text; boxes and masks by similarity."""
