"""The one table of settings, the layers, and edits of one key."""
