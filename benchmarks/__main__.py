from runtime.terminal.console import start

start("benchmarks")
