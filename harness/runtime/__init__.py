"""The machine: devices, threads, prefetching, and the terminal."""
