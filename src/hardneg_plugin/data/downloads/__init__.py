"""Data sets as downloaded: each module reads one kind of original files as studies."""
