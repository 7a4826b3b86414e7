"""Engines: what computes a network's passes."""
