from runtime.console import start

start("quantize")
