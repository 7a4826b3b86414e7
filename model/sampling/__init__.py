"""Dropout masks, and when to stop drawing them."""
