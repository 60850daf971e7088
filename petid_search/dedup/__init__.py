"""Near-identical photos: found by SSIM, grouped, and moved aside so that they can be brought back."""
