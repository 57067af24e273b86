"""What a trained model does: embed, search, classify, caption, answer, generate."""
