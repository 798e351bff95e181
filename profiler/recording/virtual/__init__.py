"""Recording on the virtual GPU: the stream of its allocator's events, and the recorder of a training step."""
