"""Turn a configuration into records: planning, running, and the executors that run the jobs."""
