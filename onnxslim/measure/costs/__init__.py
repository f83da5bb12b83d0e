"""What kernels cost on this machine: models of a few nodes, their times, and the terms that explain them."""
