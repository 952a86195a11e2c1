"""The commands, a file each: options in, calls, printing. `harness.cli.app` puts them together."""
