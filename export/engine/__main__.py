from runtime.console import start

start("export.engine")
