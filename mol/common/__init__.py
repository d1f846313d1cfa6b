"""What every wing stands on: errors, files, processes, devices and the terminal."""
