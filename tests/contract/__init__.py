"""What an interface promises, whichever class keeps the promise."""
