"""Where in a long video expressions are: intervals, kinds and emotions, out of what a network says over time."""
