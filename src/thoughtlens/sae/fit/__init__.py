"""How SAEs are fitted: optimizer, loops, ways of sharing one SAE over processes, curves and checkpoints."""
