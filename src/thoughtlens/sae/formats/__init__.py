"""Other libraries' SAEs: recognised, read, written, and proved to compute the same (docs/converting.md)."""
