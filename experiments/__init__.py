"""One readable module per question."""
