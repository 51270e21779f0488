"""Many runs: a list of them, and what differs between some."""
