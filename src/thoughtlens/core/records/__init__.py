"""Records, results and files that are whole or absent."""
