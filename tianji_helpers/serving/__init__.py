"""Notebook 06: talk to a model, in the terminal, in a notebook and on a web page."""

from tianji_helpers.serving.chat import Chat, repl, widget

__all__ = ["Chat", "repl", "widget"]
