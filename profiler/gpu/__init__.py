"""All that is known of CUDA's memory; knows nothing of training."""
