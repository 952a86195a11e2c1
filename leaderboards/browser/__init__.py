"""Pages for single queries: the error browser and the transport viewer."""
