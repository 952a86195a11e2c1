"""The sample world's teacher: a tiny CLIP in open_clip's own folder form, and how it was trained."""
