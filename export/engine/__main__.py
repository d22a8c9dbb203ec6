from runtime.terminal.console import start

start("export.engine")
