"""`python -m bench`: what the service costs, against the barest program for the same work."""
