"""Searches: ways of closing questions."""
