"""Tests of plaitwire, the contract: one file per module, of the same name."""
