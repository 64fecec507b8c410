"""Whose an instant is, among the processes of one application."""
