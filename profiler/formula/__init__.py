"""The same bytes, added up: every term with its source."""
