"""The contract between ranks, agents, collectors and readers. A rank imports it without protobuf."""
