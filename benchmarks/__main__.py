from runtime.console import start

start("benchmarks")
