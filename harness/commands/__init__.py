"""The commands, a file each: options in, calls, printing. `harness.cli` puts them together."""
