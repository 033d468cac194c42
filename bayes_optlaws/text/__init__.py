"""How results are written: tables in HTML, numbers, progress, files."""
