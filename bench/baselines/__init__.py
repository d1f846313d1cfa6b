"""What the project is compared with. Nothing in `molkernels` or `mol` imports it."""
