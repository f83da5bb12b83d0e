"""The project's own measurements; README.md says how to repeat them."""
