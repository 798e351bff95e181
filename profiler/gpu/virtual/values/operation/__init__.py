"""One operation: what its schema says, its values on the CPU, its kernel below an override."""
