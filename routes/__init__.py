"""One file a resource, named by its path; `deps.py` holds what they share."""
