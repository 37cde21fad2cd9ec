"""HiVG (Xiao et al., ACM MM 2024): a CLIP whose image tower takes in the text, with low-rank adapters."""
