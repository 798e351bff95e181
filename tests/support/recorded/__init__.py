"""Training steps that others recorded, as programs that run on the simulated device."""
