"""Teacher of the sample world: a tiny CLIP in open_clip's folder format, and its training script."""
