"""Who listens to a device's allocator while the training step runs."""
