"""The collector over HTTP: one file per resource. For now, health alone."""
