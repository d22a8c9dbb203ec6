from runtime.terminal.start import start

start("benchmarks.peers")
