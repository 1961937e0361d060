"""Data sets as they are downloaded: each module reads one kind of original files as studies."""
