from runtime.terminal.start import start

start("quantize")
