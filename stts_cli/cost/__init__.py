"""What a run costs, from numbers alone: tokens, FLOPs and bytes. No torch."""
