"""The embedded sample: a small drawn world in Flickr30k Entities' own layout, for a machine that has no data yet."""
