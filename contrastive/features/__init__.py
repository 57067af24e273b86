"""Features of frozen encoders, kept on disk."""
