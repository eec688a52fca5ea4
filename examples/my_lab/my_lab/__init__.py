"""A lab's own networks, outside finishline."""
