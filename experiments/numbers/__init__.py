"""What 16-bit numbers do to training: experiments on values, not on memory."""
