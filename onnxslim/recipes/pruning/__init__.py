"""Which channels go, how many from where, and what is made good afterwards."""
