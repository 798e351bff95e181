"""What a tensor on the simulated device is: its storage, its layout, and what is known of its values."""
