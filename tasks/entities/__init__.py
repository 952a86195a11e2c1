"""Flickr30k Entities: tagged phrases, boxes, and the grounding task."""
