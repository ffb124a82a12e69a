"""Large images and images for use: `tiling` (network and autoencoder by tiles), `carry` (last corrections)."""
