"""Notebook 06: talk to a model, in the terminal and in a notebook."""

from tianji_helpers.serving.chat import Chat, repl, widget

__all__ = ["Chat", "repl", "widget"]
