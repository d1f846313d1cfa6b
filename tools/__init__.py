"""What looks after the source code itself: the order of its imports and the drawing of it."""
