"""The commands, one file each: they take options, call the engine and print. `harness.cli.app` puts them together."""
