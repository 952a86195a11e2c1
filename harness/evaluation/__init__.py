"""From a configuration to records: planning, running, and the executors that do the work."""
