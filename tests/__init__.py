"""A package and not only a folder: a font that the outliers need installs another `tests`."""
