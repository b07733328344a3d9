"""Training: samples to clips, batches and losses, the Trainer, and the folder a run leaves."""
