"""What memory did in one run: events, owners, moments, peaks. Knows no torch."""
