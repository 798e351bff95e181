"""What several tests share: recordings, programs, allocators, a browser."""
