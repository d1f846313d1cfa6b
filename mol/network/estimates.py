"""What a clip is and what networks estimate from it: the numbers and names that also hold without PyTorch."""

FRAMES = 8
"""T, of a clip."""
CROP = 128
"""Side in pixels of the square that networks see of an aligned frame."""
FLOW, LANDMARKS = "flow", "landmarks"
"""What a network can estimate besides the emotion."""
