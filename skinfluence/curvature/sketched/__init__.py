"""Curvatures of sketched rows."""
