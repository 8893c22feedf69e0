"""The tests of plait: a folder for each part, and folders for what spans them."""
