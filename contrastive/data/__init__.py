"""Raw samples: read, checked, hashed, and preprocessed into batches."""
