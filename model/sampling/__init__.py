"""Dropout masks, and the criterion for stopping early."""
