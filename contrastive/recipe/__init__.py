"""What a run is composed of besides its model and its data."""
