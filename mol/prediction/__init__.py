"""A trained network at work on a video: windows, votes, overview and overlay."""
