"""Training: the embedded model's stages (`nano`) and the pieces they share."""
