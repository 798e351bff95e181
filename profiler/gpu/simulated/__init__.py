"""A GPU that allocates and computes nothing, and reports every block that a real one would hand out."""
