"""The machine: devices, threads, prefetching, matrix products and the terminal."""
