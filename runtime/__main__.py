from runtime.console import start

start("runtime")
