"""HTML pages: one file each, no network."""
