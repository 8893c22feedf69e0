"""The node agent: it relays the streams of its node to a collector."""
