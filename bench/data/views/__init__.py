"""Random views of images: drawn, cut, painted."""
