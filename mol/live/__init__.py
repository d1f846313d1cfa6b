"""A live view: a web page on this machine that shows a camera, and what a network sees in its newest frames."""
