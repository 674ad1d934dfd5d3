"""Listings: images that are known by name before they are read, so that each can be read alone, in any order."""
