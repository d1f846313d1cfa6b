"""Videos, faces and labels: from files to the memory-mapped cache that training reads."""
