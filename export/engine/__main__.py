from runtime.terminal.start import start

start("export.engine")
