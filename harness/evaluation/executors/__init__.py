"""Where the independent jobs of a run are done: in this process, in several of this machine, or on a Ray cluster."""
