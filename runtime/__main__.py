from .terminal.start import start

start(__package__)
