"""Tests of plait_agent: one file per module, of the same name."""
