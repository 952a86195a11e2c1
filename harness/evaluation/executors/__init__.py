"""Run the independent jobs of a run in this process, in several processes of this machine, or on a Ray cluster."""
