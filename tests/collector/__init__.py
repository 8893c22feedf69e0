"""Tests of plait_collector: one file per module, of the same name."""
