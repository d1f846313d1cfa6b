"""What every other part builds on: errors, files, processes, devices and the terminal."""
