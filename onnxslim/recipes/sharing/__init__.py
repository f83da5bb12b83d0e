"""Sharing of weights and neurons: exact, near, merged, by codebooks."""
