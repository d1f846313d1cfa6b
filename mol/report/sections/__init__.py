"""The sections of a report, one module each: it writes its tables and pictures and returns its part of the page."""
