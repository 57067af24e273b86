"""For authors of plugins: what is installed, what it costs, and a new package."""
