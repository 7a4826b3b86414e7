"""Why a mutant may survive: by its module and the lines that it has in place of others."""

REASONS: dict[tuple[str, str], str] = {}
