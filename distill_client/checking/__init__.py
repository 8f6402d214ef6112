"""Looking at a teacher with at most 20 images, before a run relies on it: `distill teacher check`."""
