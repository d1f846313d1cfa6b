"""Reports of leave-one-subject-out runs: pages, tables and pictures that need no network."""
