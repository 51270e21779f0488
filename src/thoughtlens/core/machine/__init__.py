"""The machine: devices, processes, the terminal."""
