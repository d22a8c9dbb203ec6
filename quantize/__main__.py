from runtime.terminal.start import quiet_threads, start

quiet_threads()
start("quantize")
