"""Other benchmarks' protocols on our SAEs."""
