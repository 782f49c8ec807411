"""Pictures: SVG drawn here where there are thousands, matplotlib where people save them."""
