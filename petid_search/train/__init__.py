"""Training: photos of individuals to a model that tells them apart."""
