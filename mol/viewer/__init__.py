"""One self-contained HTML page to look through a film with what a network says of it."""
