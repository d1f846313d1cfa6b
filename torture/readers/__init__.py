"""Files: edits of real ones (`values`, `edits`, and one module per kind of file), and the functions that read them."""
