"""What an op asks for."""
