"""Notebook 06: talk to a model, in the terminal and in a notebook.

What comes after the notebook has modules of its own: ``web`` (the demo page) and ``app_folder`` (the
same on a platform), ``export`` (GGUF, Ollama, a server) and ``publish`` (ModelScope, Hugging Face,
OpenXLab).
"""

from tianji_helpers.serving.chat import Chat, repl, widget

__all__ = ["Chat", "repl", "widget"]
