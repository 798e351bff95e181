"""A workload on a device, in a process of its own."""
