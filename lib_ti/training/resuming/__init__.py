"""What a training is resumed from: its saved state, checked, and the inputs that it must still have."""
