"""Flickr30k Entities: tagged phrases, boxes, region proposals and phrase chunkers."""
