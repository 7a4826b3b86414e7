"""Bulk scoring: millions of images from files, archives and arrays into one Parquet table."""
