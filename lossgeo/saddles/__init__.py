"""Saddles: critical points that theory knows or a search finds, and how optimizers leave them."""
