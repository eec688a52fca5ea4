"""A lab's own networks, kept outside finishline."""
