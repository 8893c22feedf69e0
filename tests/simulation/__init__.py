"""Agents and a collector in one process, with faults that come from a seed."""
