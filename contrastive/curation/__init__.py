"""What is done with data before training: they are looked at, chosen, or stored in another form."""
