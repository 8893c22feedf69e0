"""What several tests share: fakes of time, store and network."""
