"""CLIP-VG (Xiao et al., IEEE TMM 2023): network, training, pseudo-labels and the self-paced curriculum."""
