"""Regenerated tables as text files, figures and one folder of HTML that opens offline."""
