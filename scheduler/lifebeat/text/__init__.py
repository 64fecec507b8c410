"""Text to nodes: every key and value knows its place."""
