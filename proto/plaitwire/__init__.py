"""The contract of ranks, agents, collectors and readers. A rank imports it without protobuf."""
