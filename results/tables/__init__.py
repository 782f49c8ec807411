"""One published table, one file, exporting TABLE. Found by file name; no list to edit."""
