"""What the tests hold the package against; it imports nothing of it."""
