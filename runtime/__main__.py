from .terminal.console import start

start(__package__)
