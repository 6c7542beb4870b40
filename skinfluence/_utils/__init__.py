"""Small helpers that know nothing of influence."""
