"""The embedded sample: drawn pictures and grammar-made captions in the layout of Flickr30k Entities, for use without data."""
