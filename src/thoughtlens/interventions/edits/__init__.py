"""What is changed in the running thought loop, and where."""
