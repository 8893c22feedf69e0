"""Tests of plait, the SDK: one file per module, of the same name."""
