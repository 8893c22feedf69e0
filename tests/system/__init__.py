"""Real processes on loopback: started, killed and restarted."""
