"""The data sets, a file a kind of layout."""
